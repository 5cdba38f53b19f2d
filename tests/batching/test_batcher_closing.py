"""The batcher closes: accepted work finishes, abandoned work gets an error, and no caller waits for ever."""

import asyncio
import gc
import math

import pytest

from batcher_kit import GatedEngine, started, submit, ys
from service.errors import Draining


async def test_case_30_closing_finishes_accepted_work_and_refuses_new() -> None:
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


@pytest.mark.parametrize("timeout_s", [0, 0.01])
@pytest.mark.parametrize("lanes", [1, 2])
async def test_closing_gives_up_on_an_engine_that_hangs(lanes: int, timeout_s: float) -> None:
    engine = GatedEngine()
    batcher = started(engine, lanes=lanes)
    jobs = [submit(batcher, value) for value in range(11)]
    await engine.begun.get()
    await batcher.close(timeout_s)
    for job in jobs:
        assert job.future.done(), "this caller would wait for ever"
        with pytest.raises(Draining, match="shut down before"):
            await ys(batcher, job)
    assert len(engine.batches) == lanes, "no batch begins whose callers are gone"
    assert (batcher.waiting_rows, batcher.running_rows) == (0, 0)


async def test_case_30_a_batch_that_is_given_up_before_it_began_is_answered_too() -> None:
    engine = GatedEngine()
    batcher = started(engine)
    jobs = [submit(batcher, value) for value in range(6)]
    await engine.begun.get()
    engine.release()  # the next batch is made in the turn in which closing gives up
    await batcher.close(timeout_s=0)
    assert all(job.future.done() for job in jobs), "a caller would wait for ever"
    assert (batcher.waiting_rows, batcher.running_rows) == (0, 0)


async def test_case_30_an_engine_that_fails_once_it_was_given_up_is_no_unhandled_error() -> None:
    engine = GatedEngine()
    batcher = started(engine)
    jobs = [submit(batcher, value) for value in (0.0, 1.0, 2.0, 3.0, math.nan)]
    await engine.begun.get()
    engine.release(2)  # the poisoned batch is handed over in the turn in which closing gives up
    await batcher.close(timeout_s=0)
    assert len(engine.batches) == 2
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()  # an error that was never taken is reported when its future goes
    with pytest.raises(Draining):
        await ys(batcher, jobs[-1])
