"""The queue alone, without ONNX Runtime: every caller gets exactly its own rows, or one clear error.

Engines here are gates: they answer when a test opens them, so nothing waits on a clock.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batcher import Batcher, BatcherConfig, Execution
from service.errors import BadRequest, DeadlinePassed, Draining, ModelFailed, Overloaded
from service.job import Job, Tensors

LARGEST = 4


class GatedEngine:
    """Doubles rows. Each call waits for `release`; rows that hold a poison value raise."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.batches: list[list[list[float]]] = []
        self.begun: asyncio.Queue[int] = asyncio.Queue()
        self._gate = asyncio.Semaphore(0)
        self.is_open = is_open

    async def __call__(self, jobs: Sequence[Tensors]) -> Tensors:
        self.batches.append([job["x"].tolist() for job in jobs])
        rows = np.concatenate([job["x"] for job in jobs])
        self.begun.put_nowait(len(rows))
        if not self.is_open:
            await self._gate.acquire()
        else:
            await asyncio.sleep(0)
        if np.isnan(rows).any():
            raise ModelFailed("poison")
        return {"y": rows * 2}

    def release(self, num_batches: int = 1) -> None:
        for _ in range(num_batches):
            self._gate.release()

    @property
    def ran(self) -> list[float]:
        """Every row that was run, in order."""
        return [row for batch in self.batches for job in batch for row in job]


def rows(*values: float) -> Tensors:
    return {"x": np.array(values, np.float64)}


def submit(batcher: Batcher, *values: float, timeout_s: float | None = None) -> Job:
    return batcher.submit(rows(*values), len(values), timeout_s)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


def started(engine: Callable[[Sequence[Tensors]], Awaitable[Tensors]], **options: Any) -> Batcher:
    observe = options.pop("observe", lambda execution: None)
    config = BatcherConfig(**{"largest": LARGEST, "queue_rows": 16, **options})
    batcher = Batcher(engine, config, observe=observe)
    batcher.start()
    return batcher


async def ys(batcher: Batcher, job: Job) -> list[float]:
    return (await batcher.answers(job))["y"].tolist()


def test_a_lone_job_runs_at_once() -> None:
    async def test() -> None:
        engine = GatedEngine(is_open=True)
        batcher = started(engine)
        assert await ys(batcher, submit(batcher, 1, 2)) == [2, 4]
        await batcher.close()

    run(test)


def test_case_13_what_waits_runs_together_up_to_the_largest_bucket() -> None:
    async def test() -> None:
        engine = GatedEngine()
        batcher = started(engine)
        first = submit(batcher, 0)
        await engine.begun.get()  # the engine is busy: the others wait
        others = [submit(batcher, value) for value in (1, 2, 3, 4, 5)]
        engine.release(3)
        answers = [await ys(batcher, job) for job in (first, *others)]
        assert answers == [[0], [2], [4], [6], [8], [10]]
        assert engine.batches == [[[0]], [[1], [2], [3], [4]], [[5]]]
        await batcher.close()

    run(test)


def test_case_13_a_job_that_does_not_fit_waits_and_keeps_its_place() -> None:
    async def test() -> None:
        engine = GatedEngine()
        batcher = started(engine)
        jobs = [submit(batcher, 0)]
        await engine.begun.get()
        jobs += [submit(batcher, 1, 2, 3), submit(batcher, 4, 5), submit(batcher, 6)]
        engine.release(4)
        assert [await ys(batcher, job) for job in jobs] == [[0], [2, 4, 6], [8, 10], [12]]
        assert engine.batches[1:] == [[[1, 2, 3]], [[4, 5], [6]]]
        await batcher.close()

    run(test)


def test_case_13_a_job_over_the_largest_bucket_is_split_and_put_together() -> None:
    async def test() -> None:
        engine = GatedEngine(is_open=True)
        batcher = started(engine)
        values = [float(value) for value in range(11)]
        assert await ys(batcher, submit(batcher, *values)) == [2 * value for value in values]
        assert [len(batch[0]) for batch in engine.batches] == [4, 4, 3]
        await batcher.close()

    run(test)


def test_case_15_queue_full_rejects_exactly_the_excess() -> None:
    async def test() -> None:
        engine = GatedEngine()
        batcher = started(engine, queue_rows=8)
        running = submit(batcher, 0)
        await engine.begun.get()
        accepted, refused = [running], []
        for value in range(1, 11):
            try:
                accepted.append(submit(batcher, value))
            except Overloaded as error:
                refused.append(error)
        assert (len(accepted), [error.status for error in refused]) == (9, [503, 503])
        assert min(error.retry_after_s for error in refused) >= 1
        engine.release(10)
        assert [await ys(batcher, job) for job in accepted] == [[2 * value] for value in range(9)]
        assert batcher.waiting_rows == 0
        await batcher.close()

    run(test)


def test_a_job_that_can_never_fit_is_a_bad_request() -> None:
    async def test() -> None:
        batcher = started(GatedEngine(), queue_rows=8)
        with pytest.raises(BadRequest, match="9 rows in one request, at most 8"):
            submit(batcher, *range(9))
        await batcher.close()

    run(test)


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


def test_case_14_a_full_batch_never_waits_for_the_delay() -> None:
    async def test() -> None:
        engine = GatedEngine(is_open=True)
        batcher = started(engine, max_wait_s=3600)
        jobs = [submit(batcher, value) for value in range(LARGEST)]
        assert [await ys(batcher, job) for job in jobs] == [[0], [2], [4], [6]]
        assert len(engine.batches) == 1
        await batcher.close()

    run(test)


def test_case_14_a_partial_batch_leaves_when_the_delay_is_over() -> None:
    async def test() -> None:
        batcher = started(GatedEngine(is_open=True), max_wait_s=0.005)
        assert await ys(batcher, submit(batcher, 1)) == [2]
        await batcher.close()

    run(test)


def test_closing_ends_the_delay() -> None:
    async def test() -> None:
        batcher = started(GatedEngine(is_open=True), max_wait_s=3600)
        job = submit(batcher, 1)
        await batcher.close()
        assert await ys(batcher, job) == [2]

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


def test_retry_after_is_how_long_the_waiting_rows_take() -> None:
    async def test() -> None:
        engine = GatedEngine()
        ticks = iter(range(0, 10_000, 3))  # each look at the clock is 3 s later
        config = BatcherConfig(largest=LARGEST, queue_rows=8)
        batcher = Batcher(engine, config, clock=lambda: float(next(ticks)))
        batcher.start()
        job = submit(batcher, 0)
        engine.release()
        await ys(batcher, job)  # one batch took 3 s
        jobs = [submit(batcher, 0)]
        await engine.begun.get()
        await engine.begun.get()
        jobs += [submit(batcher, value) for value in range(8)]
        with pytest.raises(Overloaded) as refused:
            submit(batcher, 1)
        assert refused.value.retry_after_s == 9  # the batch that runs and two that wait
        engine.release(9)
        for job in jobs:
            await ys(batcher, job)
        await batcher.close()

    run(test)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"queue_rows": 3}, "at least one full batch of 4"), ({"max_wait_s": -1.0}, "max_wait_s")],
)
def test_a_wrong_config_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatcherConfig(**{"largest": 4, "queue_rows": 8, **options})


STEP = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 11), st.booleans()),
    st.tuples(st.just("cancel"), st.integers(0, 40), st.just(False)),
    st.tuples(st.just("release"), st.integers(1, 3), st.just(False)),
    st.tuples(st.just("turn"), st.integers(1, 4), st.just(False)),
)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(STEP, max_size=40), max_wait=st.sampled_from([0.0, 0.0, 0.0005]), is_cut=st.booleans())
def test_every_caller_gets_exactly_its_own_rows_or_one_error(
    steps: list[tuple[str, int, bool]], max_wait: float, is_cut: bool
) -> None:
    async def test() -> None:
        engine = GatedEngine()
        batcher = started(engine, max_wait_s=max_wait)
        waiters: list[tuple[asyncio.Future[list[float]], list[float], bool]] = []
        cancelled: set[int] = set()
        next_value = 0
        for what, number, is_poisoned in steps:
            if what == "submit":
                values = [float(next_value + index) for index in range(number)]
                next_value += number
                sent = [float("nan"), *values[1:]] if is_poisoned else values
                waiting = batcher.waiting_rows
                try:
                    job = submit(batcher, *sent)
                except Overloaded:
                    assert waiting + number > 16
                    continue
                waiters.append((asyncio.ensure_future(ys(batcher, job)), values, is_poisoned))
            elif what == "cancel" and number < len(waiters):
                if waiters[number][0].cancel():
                    cancelled.add(number)
            elif what == "release":
                engine.release(number)
            else:
                for _ in range(number):
                    await asyncio.sleep(0)
            assert 0 <= batcher.waiting_rows <= 16
        if is_cut:
            await asyncio.gather(batcher.close(timeout_s=0.001), return_exceptions=False)
        else:
            engine.release(10_000)
            await batcher.close()
        assert batcher.waiting_rows == 0
        for index, (waiter, values, is_poisoned) in enumerate(waiters):
            try:
                answer = await waiter
            except asyncio.CancelledError:
                assert index in cancelled
            except ModelFailed:
                assert is_poisoned
            except Draining:
                assert is_cut
            else:
                assert not is_poisoned
                assert answer == [2 * value for value in values]
        ran = [value for value in engine.ran if not np.isnan(value)]
        clean = [value for _, values, is_poisoned in waiters if not is_poisoned for value in values]
        assert set(ran) <= set(clean) | {value for _, values, _ in waiters for value in values}

    run(test)
