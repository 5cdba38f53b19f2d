"""The queue alone, without ONNX Runtime: every caller gets exactly its own rows, or one clear error."""

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher_kit import LARGEST, GatedEngine, run, started, submit, ys
from service.batcher import Batcher, BatcherConfig
from service.errors import BadRequest, Draining, ModelFailed, Overloaded


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
