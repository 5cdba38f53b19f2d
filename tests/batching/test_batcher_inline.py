"""Batches that are over sooner than a lane would be awake run on the event loop itself."""

import asyncio

import pytest

from batcher_kit import GatedEngine, now, outcome, rows, started, submit, ys
from service.batching.execution import Execution
from service.batching.forecast import STEADY_AFTER
from service.batching.job import Job
from service.batching.sharing import AHEAD_FROM_S, INLINE_BELOW_S
from service.errors import ModelFailed

QUICK = {1: 0.0001, 2: 0.0002, 4: 0.0008}


async def a_turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("num_rows", "seconds", "lanes"),
    [(1, QUICK, [0]), (2, QUICK, [0]), (3, QUICK, [1]), (8, QUICK, [1, 1]), (1, None, [1])],
    ids=["one", "two", "long", "longer", "unknown"],
)
async def test_only_what_is_done_sooner_than_handed_over(num_rows, seconds, lanes):
    """Counted by all that waits, not by the first batch of it: a queue is worth a lane."""
    engine = GatedEngine(seconds=seconds)
    batcher = started(engine, run_inline=engine.inline, seconds=seconds)
    for value in range(num_rows):
        submit(batcher, float(value))
    await a_turn()
    assert engine.num_lanes == lanes
    engine.release(100)
    await batcher.close()
    assert INLINE_BELOW_S < AHEAD_FROM_S


async def test_a_net_whose_rows_decide_how_long_it_takes_does_not_run_inline():
    """The event loop would be blocked by it."""
    engine = GatedEngine(seconds=QUICK)
    batcher = started(engine, run_inline=engine.inline, seconds=QUICK)
    batcher.forecast.note_batch(1, 0.019, 0.019)
    assert await ys(batcher, submit(batcher, 1.0)) == [2], "a stall of the machine is forgiven"
    batcher.forecast.note_batch(1, 0.022, 0.022)
    for value in range(STEADY_AFTER):
        engine.release()
        assert await ys(batcher, submit(batcher, value)) == [2 * value]
    assert await ys(batcher, submit(batcher, 5.0)) == [10]
    assert engine.num_lanes == [0] + [1] * STEADY_AFTER + [0]
    await batcher.close()


async def test_nothing_runs_inline_while_a_lane_computes():
    """Its buffers are the first lane's."""
    engine = GatedEngine(seconds=QUICK)
    batcher = started(engine, run_inline=engine.inline, seconds=QUICK, lanes=2)
    submit(batcher, 1.0, 2.0, 3.0)
    await a_turn()
    late = submit(batcher, 4.0)
    await a_turn()
    assert (engine.num_lanes, late.future.done()) == ([1], False)
    engine.release()
    assert await ys(batcher, late) == [8]
    assert engine.num_lanes == [1, 0]
    await batcher.close()


async def test_answers_come_in_the_same_turn_and_nothing_is_left_behind():
    tasks_before = asyncio.all_tasks()
    seen: list[Execution] = []
    engine = GatedEngine(seconds=QUICK)
    batcher = started(engine, run_inline=engine.inline, seconds=QUICK, observe=seen.append)
    one, two = submit(batcher, 1.0), submit(batcher, 2.0)
    await asyncio.sleep(0)
    assert (one.future.result(), two.future.result()) == ([2], [4])
    assert [(execution.num_rows, execution.num_jobs) for execution in seen] == [(2, 2)]
    assert (batcher.waiting_rows, batcher.running_rows) == (0, 0)
    assert (one.job.queue_s, one.job.compute_s) == (0, QUICK[2])
    assert asyncio.all_tasks() == tasks_before
    await batcher.close()


async def test_a_poisoned_job_fails_alone():
    engine = GatedEngine(seconds=QUICK)
    batcher = started(engine, run_inline=engine.inline, seconds=QUICK)
    good, bad = submit(batcher, 1.0), submit(batcher, float("nan"))
    assert await ys(batcher, good) == [2]
    with pytest.raises(ModelFailed, match="poison"):
        await ys(batcher, bad)
    assert [len(batch) for batch in engine.batches] == [2, 1, 1]
    await batcher.close()


async def test_an_engine_that_loses_rows_is_an_error():
    engine = GatedEngine(seconds=QUICK)
    batcher = started(engine, run_inline=lambda jobs: outcome(rows(1.0, 2.0)["x"]), seconds=QUICK)
    with pytest.raises(ModelFailed, match="output 'y' has 2 rows for 1"):
        await ys(batcher, submit(batcher, 1.0))
    await batcher.close()


async def test_a_callback_that_submits_again_is_answered():
    answered_at: list[float] = []
    engine = GatedEngine(seconds=QUICK)
    batcher = started(engine, run_inline=engine.inline, seconds=QUICK)

    def again(job: Job) -> None:
        answered_at.append(now())
        if len(answered_at) < 50:
            batcher.submit(rows(1.0), 1, on_end=again)

    batcher.submit(rows(1.0), 1, on_end=again)
    for _ in range(200):
        await asyncio.sleep(0)
    assert engine.num_lanes == [0] * 50
    await batcher.close()
