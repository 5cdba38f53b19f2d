"""What waits runs together, in pieces if it must; a full queue refuses exactly the excess."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from batcher_kit import BUCKETS, GatedEngine, started, submit, ys
from service.batching.batcher import Batcher, BatcherConfig
from service.batching.forecast import Forecast
from service.batching.job import BatchResult, Tensors
from service.errors import BadRequest, Overloaded


async def test_case_13_what_waits_runs_together_up_to_the_largest_bucket() -> None:
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


async def test_case_13_a_job_that_does_not_fit_waits_and_keeps_its_place() -> None:
    engine = GatedEngine()
    batcher = started(engine)
    jobs = [submit(batcher, 0)]
    await engine.begun.get()
    jobs += [submit(batcher, 1, 2, 3), submit(batcher, 4, 5), submit(batcher, 6)]
    engine.release(4)
    assert [await ys(batcher, job) for job in jobs] == [[0], [2, 4, 6], [8, 10], [12]]
    assert engine.batches[1:] == [[[1, 2, 3]], [[4, 5], [6]]]
    await batcher.close()


async def test_case_13_a_job_over_the_largest_bucket_is_split_and_put_together() -> None:
    engine = GatedEngine(is_open=True)
    batcher = started(engine)
    values = [float(value) for value in range(11)]
    assert await ys(batcher, submit(batcher, *values)) == [2 * value for value in values]
    assert [len(batch[0]) for batch in engine.batches] == [4, 4, 3]
    await batcher.close()


async def test_case_15_queue_full_rejects_exactly_the_excess() -> None:
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


async def test_long_jobs_take_no_space_from_short_ones() -> None:
    engine = GatedEngine()
    batcher = started(engine, queue_rows=8)
    jobs = [submit(batcher, 0)]
    await engine.begun.get()
    jobs += [submit(batcher, *range(8)), *(submit(batcher, value) for value in range(8))]
    for refused in ([1], range(5)):
        with pytest.raises(Overloaded):
            submit(batcher, *refused)
    with pytest.raises(Overloaded):
        batcher.check_space()
    engine.release(10)
    for job in jobs:
        await ys(batcher, job)
    assert [len(batch) for batch in engine.batches[1:]] == [1, 4, 1, 4], "and they take turns"
    await batcher.close()


async def test_a_job_that_can_never_fit_is_a_bad_request() -> None:
    batcher = started(GatedEngine(), queue_rows=8)
    with pytest.raises(BadRequest, match="9 rows in one request, at most 8"):
        submit(batcher, *range(9))
    await batcher.close()


async def test_retry_after_is_how_long_the_waiting_rows_take() -> None:
    engine = GatedEngine()
    batcher = started(engine, seconds={1: 3.0, 2: 3.0, 4: 3.0}, queue_rows=8)
    jobs = [submit(batcher, value) for value in range(4)]
    await engine.begun.get()
    jobs += [submit(batcher, value) for value in range(8)]
    with pytest.raises(Overloaded) as refused:
        submit(batcher, 1)
    assert refused.value.retry_after_s == 9  # the batch that runs and two that wait
    engine.release(3)
    for job in jobs:
        await ys(batcher, job)
    await batcher.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_rows": 3}, "at least one full batch of 4, got 3"),
        ({"max_wait_s": -1.0}, "max_wait_s must be a number ≥ 0, got -1.0"),
        ({"max_wait_s": math.nan}, "max_wait_s must be a number ≥ 0, got nan"),
        ({"max_wait_s": math.inf}, "max_wait_s must be a number ≥ 0, got inf"),
    ],
)
def test_a_wrong_config_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batcher(_never, BatcherConfig(**{"queue_rows": 8, **options}), Forecast(BUCKETS, {}))


async def _never(jobs: Sequence[Tensors], num_lanes: int) -> BatchResult:
    raise AssertionError("no batch was asked for")
