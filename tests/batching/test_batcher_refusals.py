"""Which jobs are refused for now, and whether Retry-After is true: a retry at that time is accepted.

The engine takes exactly as long as its latency curve says, on a loop whose time jumps.
"""

import asyncio
import contextlib
import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batcher_kit import LARGEST, GatedEngine, TimedEngine, now, started, submit, ys
from service.errors import DeadlinePassed, Overloaded

SECONDS = {1: 1.0, 2: 1.5, 4: 2.0}
MARGIN_S = 0.01


async def test_a_job_that_cannot_make_it_is_refused_at_once_and_its_mates_are_not() -> None:
    engine = GatedEngine(seconds=SECONDS)
    batcher = started(engine, seconds=SECONDS)
    jobs = [submit(batcher, *range(4))]
    await engine.begun.get()
    jobs += [submit(batcher, value) for value in range(4)]
    with pytest.raises(Overloaded, match=r"would take 6.5 s, the request's timeout is 3 s") as refused:
        submit(batcher, 9, timeout_s=3)  # (4 s for 4 rows before it and 2 of those that run, 1 s) * 1.3
    assert (refused.value.status, refused.value.reason) == (503, "overloaded")
    assert refused.value.retry_after_s >= 4
    with pytest.raises(Overloaded):
        submit(batcher, 9, timeout_s=6)  # more than the forecast, less than can be promised
    jobs.append(submit(batcher, 10, timeout_s=7))
    assert batcher.waiting_rows == 5
    engine.release(3)
    for job in jobs:
        await ys(batcher, job)
    assert 9 not in engine.ran
    await batcher.close()


async def test_an_idle_engine_never_refuses_what_it_can_do_alone() -> None:
    batcher = started(TimedEngine(SECONDS), seconds=SECONDS)
    assert await ys(batcher, submit(batcher, 1, timeout_s=1.01)) == [2]  # a promise would be 1.3 s
    await batcher.close()


async def test_a_retry_at_the_stated_time_is_accepted() -> None:
    batcher = started(TimedEngine(SECONDS), seconds=SECONDS)
    jobs = [submit(batcher, value) for value in range(16)]
    await asyncio.sleep(0.5)
    with pytest.raises(Overloaded) as refused:
        submit(batcher, 99, timeout_s=4)
    await asyncio.sleep(refused.value.retry_after_s + MARGIN_S)
    assert await ys(batcher, submit(batcher, 99, timeout_s=4)) == [198]
    for job in jobs:
        await ys(batcher, job)
    await batcher.close()


@pytest.mark.parametrize(("num_rows", "timeout_s"), [(1, 1.2), (1, 1.5), (4, 2.2), (12, 6.5)])
@pytest.mark.parametrize("kind", ["engine", "loop"])
async def test_one_stall_does_not_refuse_every_job_for_ever(
    kind: str, num_rows: int, timeout_s: float
) -> None:
    engine = TimedEngine({1: 1.0, 2: 1.5, 4: 2.0})
    batcher = started(engine, seconds=SECONDS)
    patient = submit(batcher, 0)
    if kind == "engine":
        engine.seconds = {LARGEST: 20.0}
    else:
        engine.stall_s = 20.0
    await ys(batcher, patient)
    engine.seconds, engine.stall_s = SECONDS, 0.0
    answered = []
    for _ in range(100):  # callers who all have the same timeout, one at a time
        await asyncio.sleep(10)
        with contextlib.suppress(DeadlinePassed, Overloaded):
            answered.append(await ys(batcher, submit(batcher, *range(num_rows), timeout_s=timeout_s)))
    assert len(answered) > 50, "an idle engine refuses who gives it enough time"
    await batcher.close()


async def test_a_free_lane_never_refuses_what_it_can_do_alone() -> None:
    batcher = started(TimedEngine(SECONDS, lanes=2), seconds=SECONDS, lanes=2)
    busy = submit(batcher, 1, 2, 3, 4)
    await asyncio.sleep(0.5)
    assert await ys(batcher, submit(batcher, 5, timeout_s=1.5)) == [10]
    assert now() == pytest.approx(1.5)
    assert await ys(batcher, busy) == [2, 4, 6, 8]
    await batcher.close()


@settings(max_examples=150)
@given(
    num_waiting=st.integers(1, 40),
    pause_s=st.floats(0, 12),
    num_rows=st.integers(1, 4),
    timeout_s=st.floats(2, 30),
    lanes=st.integers(1, 3),
)
async def test_a_refusal_states_when_to_retry(
    num_waiting: int, pause_s: float, num_rows: int, timeout_s: float, lanes: int
) -> None:
    batcher = started(TimedEngine(SECONDS, lanes), seconds=SECONDS, lanes=lanes, queue_rows=40)
    jobs = [submit(batcher, value) for value in range(num_waiting)]
    idle = asyncio.gather(*(job.future for job in jobs))
    idle_at: list[float] = []
    idle.add_done_callback(lambda _: idle_at.append(now()))
    await asyncio.sleep(pause_s)
    refused_at = now()
    try:
        submit(batcher, *range(num_rows), timeout_s=timeout_s)
    except Overloaded as refused:
        retry_after_s = refused.retry_after_s
        await asyncio.sleep(retry_after_s + MARGIN_S)
        submit(batcher, *range(num_rows), timeout_s=timeout_s)
        await idle
        assert retry_after_s <= 4 * (idle_at[0] - refused_at) + 8, "idle long before"
    await idle
    await batcher.close()


@settings(max_examples=100)
@example(num_rows=[1, 1, 1, 3, 3, 7, 4], pause_s=0.0)  # a short job waits for batches of a long one too
@given(num_rows=st.lists(st.integers(1, 9), min_size=1, max_size=12), pause_s=st.floats(0, 12))
async def test_a_full_queue_states_when_to_retry(num_rows: list[int], pause_s: float) -> None:
    batcher = started(TimedEngine(SECONDS), seconds=SECONDS)

    async def fill() -> None:
        for size in itertools.cycle(num_rows):
            submit(batcher, *range(size))
            await asyncio.sleep(0)

    with pytest.raises(Overloaded) as refused:
        await fill()
    assert refused.value.retry_after_s <= 4 * batcher.waiting_rows, "idle long before"
    await asyncio.sleep(refused.value.retry_after_s + MARGIN_S)
    submit(batcher, *range(max(num_rows)))
    await batcher.close()
