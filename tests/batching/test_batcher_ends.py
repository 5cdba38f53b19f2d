"""How a job ends that is not answered: cancelled, poisoned, too late, or refused by a queue that closes."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Sequence
from typing import Any

import numpy as np
import pytest

from batcher_kit import GatedEngine, callbacks_may_raise, outcome, rows, started, submit, ys
from service.batching.execution import Execution
from service.batching.job import BatchResult, Job, Tensors
from service.errors import ModelFailed


async def test_case_17_a_cancelled_job_never_runs_and_harms_no_other() -> None:
    engine = GatedEngine()
    batcher = started(engine)
    first = submit(batcher, 0)
    await engine.begun.get()
    jobs = [submit(batcher, value) for value in (1, 2, 3)]
    waiters = [asyncio.ensure_future(ys(batcher, job)) for job in jobs]
    await asyncio.sleep(0)
    waiters[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiters[1]
    assert batcher.waiting_rows == 2
    engine.release(2)
    assert await ys(batcher, first) == [0]
    assert [await waiters[0], await waiters[2]] == [[2], [6]]
    assert 2 not in engine.ran
    assert jobs[1].num_ends == 0
    await batcher.close()


async def test_case_17_cancelling_while_its_batch_runs_leaves_the_mates_alone() -> None:
    engine = GatedEngine()
    batcher = started(engine)
    jobs = [submit(batcher, value) for value in (1, 2)]
    await engine.begun.get()
    batcher.cancel(jobs[0].job)
    engine.release()
    assert await ys(batcher, jobs[1]) == [4]
    batcher.cancel(jobs[1].job)  # after the end: harmless
    assert [job.num_ends for job in jobs] == [0, 1]
    await batcher.close()
    assert (batcher.waiting_rows, batcher.running_rows) == (0, 0)


async def test_case_17_cancelling_the_wait_cancels_the_job() -> None:
    engine = GatedEngine()
    batcher = started(engine)
    first = submit(batcher, 0)
    await engine.begun.get()
    asking = asyncio.ensure_future(batcher.ask(rows(1, 2), 2))
    await asyncio.sleep(1)
    assert batcher.waiting_rows == 2
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert batcher.waiting_rows == 0
    engine.release(2)
    assert await ys(batcher, first) == [0]
    await batcher.close()
    assert engine.ran == [0]


async def test_cancelling_a_split_job_stops_the_pieces_that_wait() -> None:
    engine = GatedEngine()
    batcher = started(engine)
    long = submit(batcher, *range(10))
    mate = submit(batcher, 99)
    await engine.begun.get()
    batcher.cancel(long.job)
    engine.release(2)
    assert await ys(batcher, mate) == [198]
    assert engine.ran == [0, 1, 2, 3, 99]
    await batcher.close()


async def test_case_18_one_poisoned_job_fails_alone_and_the_loop_lives() -> None:
    engine = GatedEngine()
    seen: list[Execution] = []
    batcher = started(engine, observe=seen.append)
    first = submit(batcher, 0)
    await engine.begun.get()
    jobs = [submit(batcher, 1), submit(batcher, float("nan")), submit(batcher, 3)]
    engine.release(10)
    assert await ys(batcher, first) == [0]
    assert [await ys(batcher, jobs[0]), await ys(batcher, jobs[2])] == [[2], [6]]
    with pytest.raises(ModelFailed, match="poison"):
        await ys(batcher, jobs[1])
    assert await ys(batcher, submit(batcher, 5)) == [10]
    assert [execution.result is None for execution in seen] == [False, True, False, True, False, False]
    assert [(execution.num_rows, execution.num_jobs) for execution in seen] == [
        *((1, 1), (3, 3)),
        *((1, 1), (1, 1), (1, 1)),
        (1, 1),
    ]
    await batcher.close()
    assert (batcher.waiting_rows, batcher.running_rows) == (0, 0)


async def test_case_18_a_cancelled_job_is_not_run_again_beside_a_poisoned_one() -> None:
    engine = GatedEngine()
    batcher = started(engine)
    jobs = [submit(batcher, 1), submit(batcher, float("nan")), submit(batcher, 3)]
    await engine.begun.get()
    batcher.cancel(jobs[0].job)
    engine.release(3)
    assert await ys(batcher, jobs[2]) == [6]
    await batcher.close()
    assert (engine.ran.count(1), engine.ran.count(3)) == (1, 2)


async def test_case_18_a_poisoned_piece_fails_its_whole_job_and_no_other() -> None:
    engine = GatedEngine(is_open=True)
    batcher = started(engine)
    long, mate = submit(batcher, float("nan"), *range(1, 10)), submit(batcher, 99)
    with pytest.raises(ModelFailed, match="poison"):
        await ys(batcher, long)
    assert await ys(batcher, mate) == [198]
    assert engine.ran[4:] == [99]
    await batcher.close()


@pytest.mark.parametrize("ends", ["answered", "cancelled", "failed"])
async def test_case_31_nothing_remembers_a_job_that_ended(ends: str) -> None:
    class Caller:
        def __call__(self, job: Job) -> None:
            if job.answers is not None:
                refs.append(weakref.ref(job.answers["y"]))

    refs: list[weakref.ref[Any]] = []
    engine = GatedEngine()
    batcher = started(engine)
    caller = Caller()
    refs.append(weakref.ref(caller))
    value = float("nan") if ends == "failed" else 1.0
    job = batcher.submit(rows(value), 1, 3600, on_end=caller)  # its timer would hold it for an hour
    await engine.begun.get()
    if ends == "cancelled":
        batcher.cancel(job)
    engine.release()
    await asyncio.sleep(1)
    del job, caller
    gc.collect()
    assert [ref() for ref in refs] == [None] * (2 if ends == "answered" else 1)
    await batcher.close()


async def test_a_run_that_loses_rows_is_an_error_not_a_mix_up() -> None:
    async def loses(jobs: Sequence[Tensors], num_lanes: int) -> BatchResult:
        return outcome(np.concatenate([job["x"] for job in jobs])[1:])

    seen: list[Execution] = []
    batcher = started(loses, observe=seen.append)
    with pytest.raises(ModelFailed, match="output 'y' has 1 rows for 2"):
        await ys(batcher, submit(batcher, 1, 2))
    assert [execution.result for execution in seen] == [None]
    await batcher.close()


@pytest.mark.parametrize("error", [ValueError("boom"), MemoryError("none left"), asyncio.CancelledError()])
async def test_whatever_the_engine_raises_the_loop_lives(error: BaseException) -> None:
    errors = [error]

    async def engine(jobs: Sequence[Tensors], num_lanes: int) -> BatchResult:
        if errors:
            raise errors.pop()
        return outcome(np.concatenate([job["x"] for job in jobs]) * 2)

    batcher = started(engine)
    with pytest.raises((ModelFailed, type(error))):
        await asyncio.shield(submit(batcher, 1).future)
    assert await ys(batcher, submit(batcher, 2)) == [4]
    await batcher.close()


async def test_an_engine_that_raises_when_it_is_called_loses_no_caller() -> None:
    callbacks_may_raise()
    errors = [ValueError("no lane")]
    engine = GatedEngine(is_open=True)

    def called(jobs: Sequence[Tensors], num_lanes: int) -> Awaitable[BatchResult]:
        if errors:
            raise errors.pop()
        return engine(jobs, num_lanes)

    batcher = started(called)
    lost = submit(batcher, 1)
    await asyncio.sleep(1)
    assert await ys(batcher, submit(batcher, 2)) == [4]
    await batcher.close()
    assert lost.future.done(), "its caller would wait for ever"
    assert (batcher.waiting_rows, batcher.running_rows) == (0, 0)


async def test_an_observer_that_raises_costs_no_answer() -> None:
    def observe(execution: Execution) -> None:
        raise RuntimeError("broken metrics")

    batcher = started(GatedEngine(is_open=True), observe=observe)
    assert await ys(batcher, submit(batcher, 1)) == [2]
    await batcher.close()
