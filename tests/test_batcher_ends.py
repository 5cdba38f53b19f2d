"""How a job ends that is not answered: cancelled, poisoned, too late, or refused by a queue that closes."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from batcher_kit import GatedEngine, run, started, submit, ys
from service.batcher import Execution
from service.errors import DeadlinePassed, Draining, ModelFailed
from service.job import Tensors


def test_case_17_a_cancelled_job_never_runs_and_harms_nobody() -> None:
    async def test() -> None:
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
        await batcher.close()

    run(test)


def test_case_17_cancelling_while_its_batch_runs_leaves_the_mates_alone() -> None:
    async def test() -> None:
        engine = GatedEngine()
        batcher = started(engine)
        jobs = [submit(batcher, value) for value in (1, 2)]
        await engine.begun.get()
        batcher.cancel(jobs[0])
        engine.release()
        assert await ys(batcher, jobs[1]) == [4]
        batcher.cancel(jobs[1])  # after the end: harmless
        assert jobs[0].future.cancelled()
        await batcher.close()

    run(test)


def test_cancelling_a_split_job_stops_the_pieces_that_wait() -> None:
    async def test() -> None:
        engine = GatedEngine()
        batcher = started(engine)
        long = submit(batcher, *range(10))
        mate = submit(batcher, 99)
        await engine.begun.get()
        batcher.cancel(long)
        engine.release(2)
        assert await ys(batcher, mate) == [198]
        assert engine.ran == [0, 1, 2, 3, 99]
        await batcher.close()

    run(test)


def test_case_18_one_poisoned_job_fails_alone_and_the_loop_lives() -> None:
    async def test() -> None:
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
        assert [execution.has_failed for execution in seen] == [False, True, False, True, False, False]
        await batcher.close()

    run(test)


def test_a_run_that_loses_rows_is_an_error_not_a_mix_up() -> None:
    async def test() -> None:
        async def loses(jobs: Sequence[Tensors]) -> Tensors:
            return {"y": np.concatenate([job["x"] for job in jobs])[1:]}

        batcher = started(loses)
        with pytest.raises(ModelFailed, match="output 'y' has 1 rows for 2"):
            await ys(batcher, submit(batcher, 1, 2))
        await batcher.close()

    run(test)


@pytest.mark.parametrize("error", [ValueError("boom"), MemoryError("none left"), asyncio.CancelledError()])
def test_whatever_the_engine_raises_the_loop_lives(error: BaseException) -> None:
    async def test() -> None:
        errors = [error]

        async def engine(jobs: Sequence[Tensors]) -> Tensors:
            if errors:
                raise errors.pop()
            return {"y": np.concatenate([job["x"] for job in jobs]) * 2}

        batcher = started(engine)
        with pytest.raises((ModelFailed, type(error))):
            await asyncio.shield(submit(batcher, 1).future)
        assert await ys(batcher, submit(batcher, 2)) == [4]
        await batcher.close()

    run(test)


def test_an_observer_that_raises_costs_no_answer() -> None:
    async def test() -> None:
        def observe(execution: Execution) -> None:
            raise RuntimeError("broken metrics")

        batcher = started(GatedEngine(is_open=True), observe=observe)
        assert await ys(batcher, submit(batcher, 1)) == [2]
        await batcher.close()

    run(test)


def test_case_16_a_deadline_answers_promptly_though_the_engine_is_busy() -> None:
    async def test() -> None:
        engine = GatedEngine()
        batcher = started(engine)
        first = submit(batcher, 0)
        await engine.begun.get()
        late = submit(batcher, 1, timeout_s=0.001)
        mate = submit(batcher, 2, timeout_s=3600)
        with pytest.raises(DeadlinePassed):
            await ys(batcher, late)
        assert batcher.waiting_rows == 1
        engine.release(2)
        assert (await ys(batcher, first), await ys(batcher, mate)) == ([0], [4])
        assert 1 not in engine.ran
        await batcher.close()

    run(test)


def test_case_23_a_deadline_that_has_passed_is_never_run() -> None:
    async def test() -> None:
        engine = GatedEngine(is_open=True)
        batcher = started(engine)
        with pytest.raises(DeadlinePassed):
            await ys(batcher, submit(batcher, 1, timeout_s=1e-9))
        assert engine.ran == []
        await batcher.close()

    run(test)


def test_case_30_closing_finishes_accepted_work_and_refuses_new() -> None:
    async def test() -> None:
        engine = GatedEngine()
        batcher = started(engine)
        jobs = [submit(batcher, value) for value in range(7)]
        await engine.begun.get()
        closing = asyncio.ensure_future(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            submit(batcher, 9)
        assert not closing.done()
        engine.release(2)
        await closing
        assert [await ys(batcher, job) for job in jobs] == [[2 * value] for value in range(7)]

    run(test)


def test_closing_gives_up_on_an_engine_that_hangs() -> None:
    async def test() -> None:
        engine = GatedEngine()
        batcher = started(engine)
        jobs = [submit(batcher, value) for value in range(6)]
        await engine.begun.get()
        await batcher.close(timeout_s=0.01)
        for job in jobs:
            with pytest.raises(Draining, match="shut down before"):
                await ys(batcher, job)

    run(test)
