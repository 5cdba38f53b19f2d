"""Lanes with real threads, which meet at barriers and gates: they run at once, bring errors back, and end."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from lanes_kit import AT_MOST_S, doubled, ended, rows, threads_of, y_of
from service.batching.batcher import Batcher, BatcherConfig
from service.batching.forecast import Forecast
from service.batching.job import BatchResult, Tensors
from service.batching.lanes import Lanes

pytestmark = pytest.mark.timeout(AT_MOST_S)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """A real event loop: its time passes while the threads work."""
    return "asyncio"


@pytest.mark.parametrize("num_lanes", [1, 2, 4])
async def test_batches_run_at_once_in_threads_of_their_own(num_lanes: int) -> None:
    meeting = threading.Barrier(num_lanes)
    seen: list[tuple[int, int]] = []

    def engine(lane: int, jobs: Sequence[Tensors]) -> BatchResult:
        meeting.wait(AT_MOST_S)  # opens only when every lane waits
        seen.append((lane, threading.get_ident()))
        return doubled(jobs)

    lanes = Lanes(engine, num_lanes, "meeting")
    outcomes = await asyncio.gather(*(lanes([rows(value)]) for value in range(num_lanes)))
    assert [y_of(outcome) for outcome in outcomes] == [[2 * value] for value in range(num_lanes)]
    assert sorted(lane for lane, _ in seen) == list(range(num_lanes))
    idents = {ident for _, ident in seen}
    assert len(idents) == num_lanes
    assert threading.get_ident() not in idents
    lanes.stop()


async def test_a_lane_runs_one_batch_at_a_time_and_the_next_in_order() -> None:
    alone = threading.Lock()
    order: list[float] = []

    def engine(lane: int, jobs: Sequence[Tensors]) -> BatchResult:
        assert alone.acquire(blocking=False), "two batches in one lane"
        order.append(float(jobs[0]["x"][0]))
        alone.release()
        return doubled(jobs)

    lanes = Lanes(engine, 1, "order")
    outcomes = await asyncio.gather(*(lanes([rows(value), rows(-value)]) for value in range(50)))
    assert order == list(range(50))
    assert [y_of(outcome) for outcome in outcomes] == [[2 * value, -2 * value] for value in range(50)]
    lanes.stop()


async def test_what_is_handed_to_one_lane_waits_for_it_and_wakes_no_other() -> None:
    gate = threading.Event()
    seen: list[int] = []

    def engine(lane: int, jobs: Sequence[Tensors]) -> BatchResult:
        seen.append(lane)
        assert gate.wait(AT_MOST_S)
        return doubled(jobs)

    lanes = Lanes(engine, 3, "one")
    await all_asleep(lanes, 3)
    asking = [asyncio.ensure_future(lanes([rows(value)], 1)) for value in range(4)]
    await asyncio.sleep(0.05)  # time enough for another lane, if it were woken
    assert len(seen) == 1
    gate.set()
    assert [y_of(await asked) for asked in asking] == [[0], [2], [4], [6]]
    assert len(set(seen)) == 1
    lanes.stop()


async def test_the_lane_that_fell_asleep_last_is_woken_first() -> None:
    seen: list[int] = []

    def engine(lane: int, jobs: Sequence[Tensors]) -> BatchResult:
        seen.append(lane)
        return doubled(jobs)

    lanes = Lanes(engine, 4, "warm")
    for value in range(8):
        await all_asleep(lanes, 4)
        assert y_of(await lanes([rows(value)])) == [2 * value]
    assert len(set(seen)) == 1
    lanes.stop()


async def all_asleep(lanes: Lanes, num_lanes: int) -> None:
    def look() -> None:
        while len(lanes._idle) < num_lanes:
            time.sleep(0.001)

    await asyncio.to_thread(look)


async def test_the_event_loop_continues_while_a_batch_runs() -> None:
    gate = threading.Event()

    def engine(lane: int, jobs: Sequence[Tensors]) -> BatchResult:
        assert gate.wait(AT_MOST_S)
        return doubled(jobs)

    lanes = Lanes(engine, 1, "busy")
    asking = asyncio.ensure_future(lanes([rows(1)]))
    await asyncio.sleep(0)
    assert not asking.done()
    gate.set()  # only a loop that continues gets this far
    assert y_of(await asking) == [2]
    lanes.stop()


@pytest.mark.parametrize(
    "error", [ValueError("boom"), MemoryError("none left"), StopIteration(), SystemExit(1)], ids=repr
)
async def test_whatever_the_engine_raises_comes_back_and_the_lane_lives(error: BaseException) -> None:
    errors = [error]

    def engine(lane: int, jobs: Sequence[Tensors]) -> BatchResult:
        if errors:
            raise errors.pop()
        return doubled(jobs)

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # what counts is what comes back
    lanes = Lanes(engine, 1, "raises")
    asking = asyncio.ensure_future(lanes([rows(1)]))
    done, _ = await asyncio.wait({asking}, timeout=3)
    assert done, "the caller would wait for ever"
    raised = asking.exception()
    assert isinstance(raised, Exception), "anything else would end the event loop"
    assert isinstance(raised, type(error)) or type(error) in (StopIteration, SystemExit)
    assert y_of(await lanes([rows(2)])) == [4]
    lanes.stop()


async def test_an_engine_that_answers_nothing_is_an_error() -> None:
    lanes = Lanes(lambda lane, jobs: None, 1, "nothing")  # type: ignore[arg-type, return-value]
    with pytest.raises(RuntimeError, match="the engine answered nothing"):
        await lanes([rows(1)])
    lanes.stop()


async def test_a_cancelled_wait_harms_no_other_batch() -> None:
    begun, gate = threading.Event(), threading.Event()

    def engine(lane: int, jobs: Sequence[Tensors]) -> BatchResult:
        begun.set()
        assert gate.wait(AT_MOST_S)
        return doubled(jobs)

    lanes = Lanes(engine, 1, "gone")
    gone = asyncio.ensure_future(lanes([rows(1)]))
    mate = asyncio.ensure_future(lanes([rows(2)]))
    assert await asyncio.to_thread(begun.wait, AT_MOST_S)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    gate.set()
    assert y_of(await mate) == [4]
    lanes.stop()


async def test_stopping_finishes_what_was_handed_over_and_ends_the_threads() -> None:
    gate = threading.Event()

    def engine(lane: int, jobs: Sequence[Tensors]) -> BatchResult:
        assert gate.wait(AT_MOST_S)
        return doubled(jobs)

    lanes = Lanes(engine, 3, "stops")
    threads = threads_of("stops")
    assert sorted(thread.name for thread in threads) == ["stops-0", "stops-1", "stops-2"]
    assert all(thread.daemon for thread in threads), "a batch that hangs must not keep the process"
    asking = [asyncio.ensure_future(lanes([rows(value)])) for value in range(9)]
    await asyncio.sleep(0)
    lanes.stop()
    gate.set()
    assert [y_of(await asked) for asked in asking] == [[2 * value] for value in range(9)]
    assert ended(threads)


def test_case_30_a_loop_that_closed_under_a_batch_ends_its_thread() -> None:
    begun, gate = threading.Event(), threading.Event()

    def engine(lane: int, jobs: Sequence[Tensors]) -> BatchResult:
        begun.set()
        assert gate.wait(AT_MOST_S)
        return doubled(jobs)

    async def test() -> None:
        lanes = Lanes(engine, 1, "closed")
        asking = asyncio.ensure_future(lanes([rows(1)]))
        assert await asyncio.to_thread(begun.wait, AT_MOST_S)
        asking.cancel()

    asyncio.run(test())
    threads = threads_of("closed")
    assert len(threads) == 1
    gate.set()
    assert ended(threads)


async def test_case_31_a_lane_that_waits_keeps_nothing_of_what_it_ran(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = threading.Semaphore(0)

    class Handed(SimpleQueue):
        """Tells when a lane begins to wait."""

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            waiting.release()
            return super().get(block, timeout)

    monkeypatch.setattr("service.batching.lanes.SimpleQueue", Handed)
    lanes = Lanes(lambda lane, jobs: doubled(jobs), 1, "forgets")

    async def ask() -> list[weakref.ref[np.ndarray]]:
        job = rows(1)
        outcome = await lanes([job])
        return [weakref.ref(job["x"]), weakref.ref(outcome.answers["y"])]

    assert await asyncio.to_thread(waiting.acquire, timeout=AT_MOST_S)
    watched = await ask()
    assert await asyncio.to_thread(waiting.acquire, timeout=AT_MOST_S)
    gc.collect()
    assert [array() for array in watched] == [None, None]
    lanes.stop()


async def test_a_batcher_keeps_all_lanes_busy_at_once() -> None:
    meeting = threading.Barrier(2)

    def engine(lane: int, jobs: Sequence[Tensors]) -> BatchResult:
        meeting.wait(AT_MOST_S)
        return doubled(jobs)

    lanes = Lanes(engine, 2, "batches")
    batcher = Batcher(lanes, BatcherConfig(queue_rows=16), Forecast((1, 2, 4), {}, 2))
    jobs = await asyncio.gather(*(batcher.ask(rows(value, value), 2) for value in range(4)))
    assert [job.answers["y"].tolist() for job in jobs if job.answers] == [
        [2 * value, 2 * value] for value in range(4)
    ]
    await batcher.close()
    lanes.stop()
    assert ended(threads_of("batches"))
