"""Callbacks that raise, and callbacks that submit again at once: neither harms another caller."""

import asyncio

import pytest

from batcher_kit import GatedEngine, callbacks_may_raise, rows, started, submit, ys
from service.batching.job import Job


def broken(job: Job) -> None:
    raise RuntimeError("this callback raises")


@pytest.mark.parametrize("value", [1.0, float("nan")], ids=["answered", "failed"])
async def test_a_callback_that_raises_harms_no_other_job(value: float) -> None:
    callbacks_may_raise()
    engine = GatedEngine(is_open=True)
    batcher = started(engine)
    batcher.submit(rows(value), 1, on_end=broken)
    mates = [submit(batcher, 2), submit(batcher, 3)]
    assert [await ys(batcher, mate) for mate in mates] == [[4], [6]]
    await batcher.close()
    assert (batcher.waiting_rows, batcher.running_rows) == (0, 0)


async def test_a_callback_that_raises_at_a_deadline_leaves_no_rows() -> None:
    callbacks_may_raise()
    engine = GatedEngine()
    batcher = started(engine)
    first = submit(batcher, 0)
    await engine.begun.get()
    batcher.submit(rows(1), 1, 5, on_end=broken)
    await asyncio.sleep(6)
    assert batcher.waiting_rows == 0
    engine.release()
    assert await ys(batcher, first) == [0]
    await batcher.close()


async def test_a_callback_that_submits_at_a_deadline_does_not_overfill_a_batch() -> None:
    engine = GatedEngine()
    seconds = [0.0]
    batcher = started(engine, clock=lambda: seconds[0])
    first = submit(batcher, 0)
    await engine.begun.get()
    again = []
    batcher.submit(
        rows(1), 1, 5, on_end=lambda job: again.append(submit(batcher, 10, 11, 12, 13, priority=1))
    )
    mates = [submit(batcher, value) for value in (2, 3, 4, 5)]
    seconds[0] = 6.0  # the loop is late: the timer has not fired yet
    engine.release(3)
    assert await ys(batcher, first) == [0]
    assert [await ys(batcher, mate) for mate in mates] == [[4], [6], [8], [10]]
    assert await ys(batcher, again[0]) == [20, 22, 24, 26]
    assert max(engine.sizes) == 4
    await batcher.close()
