"""Lanes of several models that share threads: none runs more at once than it has lanes or harms others."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from lanes_kit import AT_MOST_S, doubled, ended, rows, threads_of, y_of
from service.batching.job import BatchResult, Tensors
from service.batching.shared_lanes import LaneThreads, SharedLanes

pytestmark = pytest.mark.timeout(AT_MOST_S)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """A real event loop: its time passes while the threads work."""
    return "asyncio"


async def test_models_that_share_threads_run_no_more_at_once_than_each_has_lanes() -> None:
    threads = LaneThreads(3)
    lock, running, most = threading.Lock(), [0, 0], [0, 0]

    def engine(model: int) -> Any:
        def run(lane: int, jobs: Sequence[Tensors]) -> BatchResult:
            with lock:
                running[model] += 1
                most[model] = max(most[model], running[model])
            time.sleep(0.001)
            with lock:
                running[model] -= 1
            return doubled(jobs)

        return run

    models = [SharedLanes(engine(0), 1, threads), SharedLanes(engine(1), 2, threads)]
    outcomes = [models[number % 2]([rows(number)]) for number in range(40)]
    assert [y_of(outcome) for outcome in await asyncio.gather(*outcomes)] == [[2.0 * n] for n in range(40)]
    assert most[0] == 1
    assert most[1] <= 2
    alone = await asyncio.gather(*(models[1]([rows(number)], 1) for number in range(10)))
    assert [y_of(outcome) for outcome in alone] == [[2.0 * n] for n in range(10)]
    of_them = threads_of("engines")
    assert len(of_them) == 3
    threads.stop()
    assert ended(of_them)


async def test_a_model_that_raises_leaves_the_threads_to_the_others() -> None:
    threads = LaneThreads(1)
    good = SharedLanes(lambda lane, jobs: doubled(jobs), 1, threads)
    for raised in (ValueError("no"), StopIteration(), KeyboardInterrupt()):

        def bad(lane: int, jobs: Sequence[Tensors], raised: BaseException = raised) -> BatchResult:
            raise raised

        failed = SharedLanes(bad, 1, threads)([rows(1)])
        with pytest.raises(Exception, match=r"no|gave up"):
            await failed
        assert y_of(await good([rows(2)])) == [4.0]
    threads.stop()
