"""A batch that lies ready for the lane that is free next: when, how large, and what it does to forecasts."""

import asyncio

import pytest

from batcher_kit import GatedEngine, TimedEngine, now, started, submit, ys
from service.batching.forecast import Forecast
from service.batching.sharing import AHEAD_FROM_S, LANE_FROM_S, MAX_AHEAD_S, Sharing

SHORT = {1: 0.002, 2: 0.003, 4: 0.004}
LONG = {bucket: 10 * seconds for bucket, seconds in SHORT.items()}
QUICK = {bucket: seconds / 100 for bucket, seconds in SHORT.items()}


async def a_turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("seconds", "lanes", "max_wait_s", "calls"),
    [
        (SHORT, 1, 0.0, [1, 1]),
        (SHORT, 2, 0.0, [1, 1, 1]),
        (LONG, 1, 0.0, [1]),
        (LONG, 2, 0.0, [1, 1]),
        (QUICK, 1, 0.0, [1]),
        (None, 1, 0.0, [1]),
        (SHORT, 1, 0.001, [1]),
    ],
    ids=["one lane", "two lanes", "long", "long, two lanes", "quick", "unknown", "waits for more"],
)
async def test_one_batch_lies_ready_where_a_pause_counts_and_no_urgent_row_waits_long(
    seconds, lanes, max_wait_s, calls
):
    engine = GatedEngine(seconds=seconds)
    batcher = started(engine, seconds=seconds, lanes=lanes, max_wait_s=max_wait_s)
    for value in range(5):
        submit(batcher, float(value))
        await a_turn()
        await asyncio.sleep(2 * max_wait_s)
    assert [len(batch) for batch in engine.batches] == calls
    engine.release(100)
    await batcher.close()


async def test_it_is_never_less_than_a_fair_share():
    """Three rows compute: one more is not a batch, three more are."""
    engine = GatedEngine(seconds=SHORT)
    batcher = started(engine, seconds=SHORT)
    submit(batcher, 1.0, 2.0, 3.0)
    await a_turn()
    sizes = []
    for value in (4.0, 5.0, 6.0):
        submit(batcher, value)
        await a_turn()
        sizes.append([sum(map(len, batch)) for batch in engine.batches])
    assert sizes == [[3], [3], [3, 3]]
    engine.release(100)
    await batcher.close()


async def test_a_later_job_is_forecast_to_wait_for_the_batch_that_lies_ready():
    engine = TimedEngine(SHORT)
    batcher = started(engine, seconds=SHORT)
    asked = []
    for value in range(3):
        asked.append(submit(batcher, float(value)))
        await a_turn()
    assert [one.job.expected_s for one in asked] == pytest.approx([0.002, 0.004, 0.006])
    for one in asked:
        await ys(batcher, one)
    assert now() == pytest.approx(0.006)
    await batcher.close()


async def test_lying_ready_is_not_the_lanes_overhead():
    """Or every batch would seem to take as long as two."""
    batcher = started(TimedEngine(SHORT), seconds=SHORT)
    for _ in range(50):
        await asyncio.gather(*(ys(batcher, submit(batcher, float(value))) for value in range(8)))
    assert batcher.forecast.batch_s(4) == pytest.approx(SHORT[4], rel=0.05)
    await batcher.close()


def a_sharing(row_s: float, lanes: int = 2) -> Sharing:
    buckets = (1, 2, 4, 8, 16)
    return Sharing(Forecast(buckets, {bucket: row_s * bucket for bucket in buckets}, lanes), 16)


@pytest.mark.parametrize(
    ("row_s", "num_rows", "lanes", "share", "why"),
    [
        (0.0004, 1, 1, 1, "0.4 ms is neither worth a second thread nor worth lying ready"),
        (0.0004, 4, 1, 2, "half of them take 0.8 ms: one lane, and one ahead"),
        (0.0004, 6, 2, 2, "half of them take 1.6 ms: two lanes, and one ahead"),
        (0.0008, 16, 2, 6, "a third: two lanes, and one ahead"),
        (0.0008, 40, 2, 20, "a third would take 12.8 ms, too long to wait for"),
        (0.0, 6, 2, 3, "nothing was measured yet"),
    ],
)
def test_shares_follow_the_curve(row_s, num_rows, lanes, share, why):
    sharing = a_sharing(row_s)
    assert (sharing.lanes(num_rows), sharing.share(num_rows)) == (lanes, share), why
    assert AHEAD_FROM_S < LANE_FROM_S < MAX_AHEAD_S


async def test_a_quick_net_keeps_to_one_lane_and_one_ahead():
    """Its second lane stays asleep, and the forecast of a later job counts that."""
    seconds = {1: 0.0003, 2: 0.0006, 4: 0.0009}
    engine = GatedEngine(seconds=seconds)
    batcher = started(engine, seconds=seconds, lanes=2)
    asked = []
    for _ in range(3):
        asked.append(submit(batcher, 1.0, 2.0))
        await a_turn()
    assert engine.sizes == [2, 2]
    assert engine.num_lanes == [1, 1]
    assert [one.job.expected_s for one in asked] == pytest.approx([0.0006, 0.0012, 0.0018])
    engine.release(100)
    await batcher.close()
