"""Rows of several sizes in one queue: never mixed in a batch, run with their own, and none passed over."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher_kit import BUCKETS, LARGEST, GatedEngine, TimedEngine, started, submit, ys
from service.batching.forecast import Forecast
from service.batching.job import Job, RowSize, pieces_of
from service.batching.queue import RowQueue, rank_of

SMALL = RowSize(key=(16,))
WIDE = RowSize(key=(64,), max_rows=2, cost=4.0)
WIDEST = RowSize(key=(128,), max_rows=1, cost=8.0)
SIZES = (SMALL, WIDE, WIDEST)


def job_of(num_rows: int, size: RowSize, priority: int = 0) -> Job:
    return Job(
        num_rows=num_rows,
        num_pieces=-(-num_rows // size.max_rows),
        on_end=lambda job: None,
        submitted_at=0.0,
        priority=priority,
        size=size,
    )


def put(queue: RowQueue, job: Job) -> Job:
    queue.put(job, pieces_of(job, {"x": np.arange(job.num_rows)}, min(LARGEST, job.size.max_rows)))
    return job


async def test_rows_join_their_own_size_and_the_oldest_row_chooses() -> None:
    engine = GatedEngine(seconds={1: 1.0, 2: 1.0, 4: 1.0})
    batcher = started(engine, seconds=engine.seconds)
    first = submit(batcher, 0.0, size=SMALL)
    assert await engine.begun.get() == 1
    asked = [submit(batcher, float(number), size=SIZES[number % 2]) for number in range(1, 9)]
    engine.release(20)
    for one in (first, *asked):
        await ys(batcher, one)
    assert engine.batches[1:] == [[[1.0], [3.0]], [[2.0], [4.0], [6.0], [8.0]], [[5.0], [7.0]]]


async def test_a_long_job_travels_in_pieces_of_its_own_maximum() -> None:
    engine = GatedEngine(is_open=True)
    batcher = started(engine)
    asked = [submit(batcher, *map(float, range(5)), size=size) for size in SIZES]
    for one in asked:
        assert await ys(batcher, one) == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert sorted(engine.sizes) == [1] * 7 + [2, 2, 4]


@dataclass(frozen=True, kw_only=True)
class Caller:
    num_rows: int
    size: int
    priority: int
    leaves: bool


CALLERS = st.lists(
    st.builds(
        Caller,
        num_rows=st.integers(1, 6),
        size=st.integers(0, 2),
        priority=st.sampled_from([0, 0, 1, 3]),
        leaves=st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=24,
)


@settings(max_examples=60)
@given(callers=CALLERS, lanes=st.integers(1, 3))
async def test_every_caller_gets_its_own_rows_and_no_batch_has_two_sizes(
    callers: Sequence[Caller], lanes: int
) -> None:
    engine = TimedEngine({1: 1.0, 2: 1.5, 4: 2.0}, lanes)
    batcher = started(engine, seconds=engine.seconds, lanes=lanes, queue_rows=200)
    asked = {}
    for number, caller in enumerate(callers):
        values = [1000.0 * (caller.size + 1) + 10 * number + row / 10 for row in range(caller.num_rows)]
        asked[number] = (
            submit(batcher, *values, size=SIZES[caller.size], priority=caller.priority),
            values,
        )
        if number % 5 == 4:
            await asyncio.sleep(0)
    for number, caller in enumerate(callers):
        if caller.leaves:
            batcher.cancel(asked[number][0].job)
    for number, caller in enumerate(callers):
        one, values = asked[number]
        if not caller.leaves:
            assert await ys(batcher, one) == [2 * value for value in values]
    for batch in engine.batches:
        rows = [row for job in batch for row in job]
        sizes = {int(row // 1000) - 1 for row in rows}
        assert len(sizes) == 1
        assert len(rows) <= min(LARGEST, SIZES[sizes.pop()].max_rows)
    await batcher.close()


@settings(max_examples=100)
@given(callers=CALLERS)
def test_each_batch_holds_the_row_that_waits_longest(callers: Sequence[Caller]) -> None:
    """So no row waits for more than twice as many batches as rows were before it, whatever their sizes."""
    queue = RowQueue()
    jobs = [put(queue, job_of(one.num_rows, SIZES[one.size], one.priority)) for one in callers]
    for job, caller in zip(jobs, callers, strict=True):
        if caller.leaves:
            job.drop()
    while waiting := list(queue):
        head = queue.head(LARGEST)
        assert head[0] is waiting[0]
        key = waiting[0].job.size.key
        best = [piece for piece in waiting if rank_of(piece.job) == rank_of(waiting[0].job)]
        own = [piece for piece in best if piece.job.size.key == key]
        assert head[: len(own)] == own[: len(head)]
        if len(own) < len(best):  # a lower priority may not pass over rows of another size
            assert set(head) <= set(own)
        assert queue.pop(len(head)) == head
    assert (queue.num_rows, queue.work_before(9)) == (0, 0)


def test_a_thousand_sizes_do_not_hold_up_one() -> None:
    """One client sends a new size each time; another's rows run together when theirs is the oldest."""
    queue = RowQueue()
    for number in range(3):
        put(queue, job_of(1, RowSize(key=(number,))))
    mine = [put(queue, job_of(1, RowSize(key=(-1,)))) for _ in range(4)]
    for number in range(3, 1000):
        put(queue, job_of(1, RowSize(key=(number,))))
    before = 0
    while (head := queue.head(64))[0].job is not mine[0]:
        before += len(queue.pop(len(head)))
    assert before == 3
    assert [piece.job for piece in head] == mine


def test_pieces_of_callers_that_have_gone_do_not_pile_up() -> None:
    queue = RowQueue()
    put(queue, job_of(1, SMALL))
    for number in range(2000):
        put(queue, job_of(1, RowSize(key=(number,)))).drop()
    assert sum(len(waiting) for level in queue._levels.values() for waiting in level.by_size.values()) < 100


def test_a_row_that_takes_longer_is_forecast_so() -> None:
    forecast = Forecast(BUCKETS, {1: 1.0, 2: 1.5, 4: 2.0})
    assert (forecast.alone_s(1), forecast.alone_s(1, 8.0)) == (1.0, 8.0)
    assert forecast.finish_s(4 * 8.0, 1, 8.0) == 20.0
    for _ in range(50):
        forecast.note_batch(1, 8.0, 8.0, 8.0)
    assert forecast.alone_s(1) == 1.0, "a batch that costs 8 and takes 8 is no slowdown"
    # The deadline leaves time for two small rows, and only for one that takes four times as long.
    assert (forecast.best_count([1, 1], [1.6, 1.6]), forecast.best_count([1, 1], [4.1, 4.1], 4.0)) == (2, 1)
