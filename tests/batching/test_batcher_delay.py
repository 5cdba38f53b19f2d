"""A free engine that waits for company: for how long, and what ends the wait. The loop's time jumps."""

import asyncio

import pytest

from batcher_kit import LARGEST, GatedEngine, TimedEngine, now, started, submit, ys

SECONDS = {1: 1.0, 2: 1.5, 4: 2.0}


async def test_case_14_a_full_batch_never_waits_for_the_delay() -> None:
    engine = GatedEngine(is_open=True)
    batcher = started(engine, max_wait_s=3600)
    jobs = [submit(batcher, value) for value in range(LARGEST)]
    assert [await ys(batcher, job) for job in jobs] == [[0], [2], [4], [6]]
    assert len(engine.batches) == 1
    await batcher.close()


async def test_case_14_a_partial_batch_leaves_when_the_delay_is_over() -> None:
    engine = GatedEngine(is_open=True)
    batcher = started(engine, max_wait_s=5)
    jobs = [submit(batcher, 1)]
    await asyncio.sleep(3)
    jobs.append(submit(batcher, 2))
    await asyncio.sleep(1.5)
    assert (engine.batches, batcher.waiting_rows) == ([], 2)
    assert [await ys(batcher, job) for job in jobs] == [[2], [4]]
    assert now() == pytest.approx(5)
    assert engine.batches == [[[1], [2]]]
    await batcher.close()


async def test_case_14_without_a_delay_nothing_waits() -> None:
    batcher = started(GatedEngine(is_open=True))
    assert await ys(batcher, submit(batcher, 1)) == [2]
    assert now() == 0
    await batcher.close()


async def test_the_delay_begins_anew_for_each_batch() -> None:
    batcher = started(GatedEngine(is_open=True), max_wait_s=5)
    full = [submit(batcher, value) for value in range(LARGEST)]
    await ys(batcher, full[-1])
    await asyncio.sleep(4)
    assert await ys(batcher, submit(batcher, 1)) == [2]
    assert now() == pytest.approx(9)
    await batcher.close()


async def test_closing_ends_the_delay() -> None:
    batcher = started(GatedEngine(is_open=True), max_wait_s=3600)
    job = submit(batcher, 1)
    await asyncio.sleep(1)
    await batcher.close()
    assert await ys(batcher, job) == [2]
    assert now() == pytest.approx(1)


async def test_case_14_no_job_waits_longer_than_the_delay() -> None:
    engine = GatedEngine(is_open=True)
    batcher = started(engine, max_wait_s=10)
    jobs = [submit(batcher, 1, priority=3)]
    await asyncio.sleep(9)
    jobs.append(submit(batcher, 2, priority=1))
    await ys(batcher, jobs[0])
    assert now() == pytest.approx(10)
    assert engine.batches == [[[2], [1]]]
    await batcher.close()


async def test_case_14_the_delay_ends_before_a_deadline_would_pass() -> None:
    batcher = started(TimedEngine(SECONDS), seconds=SECONDS, max_wait_s=10)
    assert await ys(batcher, submit(batcher, 1, timeout_s=5)) == [2]
    await batcher.close()
