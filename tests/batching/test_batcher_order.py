"""Who comes first, and who comes too late though it was accepted."""

import asyncio

import pytest

from batcher_kit import BUCKETS, GatedEngine, rows, started, submit, ys
from service.batching.forecast import Forecast
from service.errors import DeadlinePassed, Overloaded

SECONDS = {1: 1.0, 2: 1.5, 4: 2.0}


async def test_case_16_under_load_priority_1_runs_before_the_default_and_3_after_it() -> None:
    engine = GatedEngine()
    batcher = started(engine)
    jobs = [submit(batcher, 0)]
    await engine.begun.get()
    for value, priority in enumerate((3, 0, 2, 1, 3, 0, 1, 2, 9), 1):
        jobs.append(submit(batcher, value, priority=priority))
    engine.release(10)
    assert [await ys(batcher, job) for job in jobs] == [[2 * value] for value in range(10)]
    assert engine.ran == [0, 4, 7, 2, 3, 6, 8, 1, 5, 9]
    await batcher.close()


async def test_case_16_asking_takes_a_priority() -> None:
    engine = GatedEngine()
    batcher = started(engine)
    jobs = [submit(batcher, 0)]
    await engine.begun.get()
    jobs.append(submit(batcher, 1))
    asking = asyncio.ensure_future(batcher.ask(rows(2), 1, priority=1))
    await asyncio.sleep(1)
    engine.release(2)
    await asking
    assert engine.ran == [0, 2, 1]
    assert [await ys(batcher, job) for job in jobs] == [[0], [2]]
    await batcher.close()


async def test_case_16_a_deadline_is_held_against_what_runs_before_its_own_priority() -> None:
    engine = GatedEngine(seconds=SECONDS)
    batcher = started(engine, seconds=SECONDS)
    jobs = [submit(batcher, *range(4))]
    await engine.begun.get()
    jobs += [submit(batcher, *range(4), priority=2) for _ in range(3)]
    with pytest.raises(Overloaded):
        submit(batcher, 1, timeout_s=5)
    with pytest.raises(Overloaded):
        submit(batcher, 1, timeout_s=5, priority=3)
    jobs.append(submit(batcher, 1, timeout_s=5, priority=1))
    engine.release(5)
    for job in jobs:
        await ys(batcher, job)
    await batcher.close()


async def test_case_16_a_deadline_answers_promptly_though_the_engine_is_busy() -> None:
    engine = GatedEngine()
    batcher = started(engine)
    first = submit(batcher, 0)
    await engine.begun.get()
    late = submit(batcher, 1, timeout_s=0.001)
    mate = submit(batcher, 2, timeout_s=3600)
    with pytest.raises(DeadlinePassed, match=r"0\.001 s after it was accepted"):
        await ys(batcher, late)
    assert batcher.waiting_rows == 1
    engine.release(2)
    assert (await ys(batcher, first), await ys(batcher, mate)) == ([0], [4])
    assert 1 not in engine.ran
    await batcher.close()


async def test_case_16_a_deadline_that_passes_while_its_batch_runs_is_answered_promptly() -> None:
    engine = GatedEngine()
    batcher = started(engine)
    late, mate = submit(batcher, 1, timeout_s=5), submit(batcher, 2)
    await engine.begun.get()
    with pytest.raises(DeadlinePassed):
        await ys(batcher, late)
    engine.release()
    assert await ys(batcher, mate) == [4]
    await batcher.close()
    assert late.num_ends == 1


async def test_case_23_a_deadline_that_has_passed_is_never_run() -> None:
    engine = GatedEngine()
    seconds = [0.0]
    batcher = started(engine, clock=lambda: seconds[0])
    first = submit(batcher, 0)
    await engine.begun.get()
    late, mate = [submit(batcher, 1, timeout_s=5) for _ in range(6)], submit(batcher, 2)
    seconds[0] = 6.0  # the loop is late: the timers have not fired yet
    engine.release(2)
    for job in late:
        with pytest.raises(DeadlinePassed, match="6 s after it was accepted"):
            await ys(batcher, job)
    assert [await ys(batcher, job) for job in (first, mate)] == [[0], [4]]
    assert engine.ran == [0, 2]
    await batcher.close()


async def test_a_job_that_missed_its_deadline_teaches_the_forecast() -> None:
    engine = GatedEngine(seconds=SECONDS)
    batcher = started(engine, seconds=SECONDS)
    with pytest.raises(DeadlinePassed):
        await ys(batcher, submit(batcher, 1, timeout_s=3))
    taught = Forecast(BUCKETS, SECONDS)
    taught.note_job(1.0, 3.0)
    assert batcher.forecast.promise_s(1.0) == pytest.approx(taught.promise_s(1.0))
    engine.release()
    await batcher.close()
    assert batcher.forecast.promise_s(1.0) == pytest.approx(taught.promise_s(1.0)), "once"
