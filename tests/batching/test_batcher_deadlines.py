"""What runs before its deadline, and what is known to be too late when it comes.

The engine takes exactly as long as its latency curve says, on a loop whose time jumps.
"""

import asyncio
import math

import pytest

from batcher_kit import GatedEngine, TimedEngine, now, started, submit, ys
from service.batching.batcher import Batcher
from service.errors import DeadlinePassed, ModelFailed, Overloaded

SECONDS = {1: 1.0, 2: 1.5, 4: 2.0}
SMALL_IS_BEST = {1: 1.0, 2: 3.0, 4: 9.0}


def sure(batcher: Batcher) -> Batcher:
    """It has seen a thousand forecasts come true, and promises what it forecasts."""
    for _ in range(1000):
        batcher.forecast.note_job(1.0, 1.0)
    return batcher


@pytest.mark.parametrize(("slack_s", "size"), [(math.inf, 4), (2.01, 4), (1.99, 2), (1.51, 2), (1.49, 1)])
async def test_the_largest_batch_runs_that_keeps_the_oldest_deadline(slack_s: float, size: int) -> None:
    engine = TimedEngine(SECONDS)
    batcher = sure(started(engine, seconds=SECONDS))
    jobs = [submit(batcher, *range(4))]
    await engine.begun.get()  # 2 s until the next batch is chosen
    jobs.append(submit(batcher, 10, timeout_s=None if slack_s == math.inf else 2 + slack_s))
    jobs += [submit(batcher, value) for value in (11, 12, 13)]
    for job in jobs:
        await ys(batcher, job)
    assert engine.sizes[1] == size
    assert engine.ran == [0, 1, 2, 3, 10, 11, 12, 13]
    await batcher.close()


async def test_a_later_deadline_in_the_same_batch_counts_as_well() -> None:
    engine = TimedEngine(SECONDS)
    batcher = sure(started(engine, seconds=SECONDS))
    jobs = [submit(batcher, *range(4))]
    await engine.begun.get()
    jobs += [submit(batcher, 10), submit(batcher, 11, timeout_s=2 + 1.6), submit(batcher, 12)]
    for job in jobs:
        await ys(batcher, job)
    assert engine.sizes[1:] == [2, 1]
    await batcher.close()


@pytest.mark.parametrize("is_busy", [False, True])
async def test_a_timeout_shorter_than_its_own_batch_is_refused_at_once(is_busy: bool) -> None:
    engine = GatedEngine(seconds=SECONDS)
    batcher = started(engine, seconds=SECONDS)
    mates = [submit(batcher, 1)]
    if is_busy:
        await engine.begun.get()
    with pytest.raises(DeadlinePassed, match=r"it allows 1\.9 s, its rows alone take 2 s") as refused:
        submit(batcher, 2, 3, 4, timeout_s=1.9)
    assert refused.value.status == 504
    mates.append(submit(batcher, 5))
    assert batcher.waiting_rows == (1 if is_busy else 2)
    engine.release(2)
    assert [await ys(batcher, mate) for mate in mates] == [[2], [10]]
    assert sorted(engine.ran) == [1, 5]
    await batcher.close()


@pytest.mark.parametrize(
    ("num_rows", "too_short_s", "enough_s"), [(1, 0.9, 1.1), (3, 1.9, 2.1), (9, 4.9, 6.1), (12, 5.9, 6.1)]
)
async def test_alone_a_job_is_accepted_exactly_if_it_can_be_in_time(
    num_rows: int, too_short_s: float, enough_s: float
) -> None:
    batcher = started(TimedEngine(SECONDS), seconds=SECONDS)
    with pytest.raises(DeadlinePassed, match="its rows alone take"):
        submit(batcher, *range(num_rows), timeout_s=too_short_s)
    assert batcher.waiting_rows == 0
    assert len(await ys(batcher, submit(batcher, *range(num_rows), timeout_s=enough_s))) == num_rows
    await batcher.close()


@pytest.mark.parametrize("seconds", [SECONDS, SMALL_IS_BEST], ids=["large is best", "small is best"])
@pytest.mark.parametrize("num_rows", [1, 3, 4, 8, 12])
async def test_alone_a_job_takes_what_was_forecast(num_rows: int, seconds: dict[int, float]) -> None:
    batcher = started(TimedEngine(seconds), seconds=seconds)
    job = submit(batcher, *range(num_rows))
    await ys(batcher, job)
    assert job.job.expected_s == pytest.approx(now())
    await batcher.close()


async def test_what_comes_next_waits_for_the_lane_that_is_free_first() -> None:
    batcher = sure(started(TimedEngine(SECONDS, lanes=2), seconds=SECONDS, lanes=2))
    long = submit(batcher, *range(4))  # until 2 s
    await asyncio.sleep(0.2)
    short = submit(batcher, 4)  # until 1.2 s
    await asyncio.sleep(0.8)
    asked = submit(batcher, 5, timeout_s=1.3)
    for job in (long, short, asked):
        await ys(batcher, job)
    assert asked.job.expected_s == pytest.approx(1.2)
    assert now() == pytest.approx(2.2)
    await batcher.close()


async def test_a_batch_over_its_time_still_runs() -> None:
    engine = GatedEngine(seconds=SECONDS)
    batcher = started(engine, seconds=SECONDS)
    busy = submit(batcher, 1)
    await asyncio.sleep(10)
    with pytest.raises(Overloaded):
        submit(batcher, 2, timeout_s=1.1)  # fine if a lane were free
    engine.release()
    assert await ys(batcher, busy) == [2]
    await batcher.close()


async def test_what_really_happens_is_learnt() -> None:
    slower = {bucket: 2 * seconds for bucket, seconds in SECONDS.items()}
    batcher = started(TimedEngine(slower), seconds=SECONDS)
    promised = batcher.forecast.promise_s(1.0)
    with pytest.raises(ModelFailed):
        await ys(batcher, submit(batcher, math.nan))
    assert [batcher.forecast.batch_s(bucket) for bucket in (1, 2, 4)] == [1.0, 1.5, 2.0]
    for _ in range(5):
        await ys(batcher, submit(batcher, 1))
    assert batcher.forecast.promise_s(1.0) > promised
    for _ in range(200):
        await ys(batcher, submit(batcher, 1))
    assert [batcher.forecast.batch_s(bucket) for bucket in (1, 2, 4)] == pytest.approx([2.0, 3.0, 4.0])
    assert batcher.forecast.promise_s(1.0) == pytest.approx(1.0, abs=0.1)
    await batcher.close()


async def test_no_timeout_never_ends() -> None:
    engine = GatedEngine()
    batcher = started(engine, seconds={bucket: math.ldexp(1, 20) for bucket in (1, 2, 4)})
    jobs = [submit(batcher, value) for value in range(16)]
    await asyncio.sleep(100_000)
    engine.release(4)
    assert [await ys(batcher, job) for job in jobs] == [[2 * value] for value in range(16)]
    await batcher.close()
