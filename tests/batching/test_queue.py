"""Who waits, in which order: RowQueue against a list that is sorted anew each time."""

import gc
import weakref
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.job import Job, Piece, pieces_of
from service.batching.queue import RowQueue, rank_of

LARGEST = 4


def job_of(num_rows: int = 1, priority: int = 0) -> Job:
    num_pieces = -(-num_rows // LARGEST)
    return Job(
        num_rows=num_rows,
        num_pieces=num_pieces,
        on_end=lambda job: None,
        submitted_at=0.0,
        priority=priority,
    )


def put(queue: RowQueue, job: Job) -> list[Piece]:
    pieces = pieces_of(job, {"x": np.arange(job.num_rows)}, LARGEST)
    queue.put(job, pieces)
    return pieces


@dataclass
class Naive:
    """The same, sorted on each request."""

    arrived: list[Piece] = field(default_factory=list)
    was_long: bool = False

    @property
    def waiting(self) -> list[Piece]:
        waiting = [piece for piece in self.arrived if not piece.job.is_settled]
        if not waiting:
            self.was_long = False
        kinds = [(piece.job.priority or 2, piece.job.is_long) for piece in waiting]
        places = {
            (priority, is_long): (priority, is_long if self.was_long else kinds.index((priority, is_long)))
            for priority, is_long in kinds
        }
        return [
            piece for _, piece in sorted(zip(kinds, waiting, strict=True), key=lambda pair: places[pair[0]])
        ]

    def pop(self, number: int) -> list[Piece]:
        taken = self.waiting[:number]
        if taken:
            self.was_long = taken[0].job.is_long
        self.arrived = [piece for piece in self.arrived if piece not in taken]
        return taken

    def num_rows(self, up_to: float = float("inf")) -> int:
        return sum(piece.num_rows for piece in self.waiting if (piece.job.priority or 2) <= up_to)


PRIORITIES = st.sampled_from([0, 1, 2, 3, 7])
STEP = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 11), PRIORITIES),
    st.tuples(st.just("pop"), st.integers(0, 6), st.just(0)),
    st.tuples(st.just("remove"), st.integers(0, 200), st.just(0)),
    st.tuples(st.just("remove again"), st.integers(0, 200), st.just(0)),
)


@settings(max_examples=200)
@given(steps=st.lists(STEP, max_size=60))
def test_it_does_what_a_sorted_list_does(steps: list[tuple[str, int, int]]) -> None:
    queue, naive = RowQueue(), Naive()
    jobs: list[Job] = []
    for what, number, priority in steps:
        if what == "put":
            jobs.append(job_of(number, priority))
            naive.arrived += put(queue, jobs[-1])
        elif what == "pop":
            expected = naive.pop(number)
            assert queue.pop(len(expected)) == expected
        elif jobs:
            job = jobs[number % len(jobs)]
            if what == "remove again" or not job.is_settled:
                job.drop()
        waiting = naive.waiting
        assert list(queue) == waiting
        assert queue.head(1) == waiting[:1]
        assert queue.head(10**6) == waiting
        assert queue.num_rows == naive.num_rows()
        assert queue.num_short_rows == sum(piece.num_rows for piece in waiting if not piece.job.is_long)
        for asked in (0, 1, 2, 3, 4, 7, 9):
            assert queue.work_before(asked, is_long=True) == naive.num_rows(up_to=asked or 2)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 11), PRIORITIES, st.booleans()), max_size=120), st.integers(0, 300))
def test_many_leave_and_the_others_keep_their_places(
    given_jobs: list[tuple[int, int, bool]], popped: int
) -> None:
    queue, naive = RowQueue(), Naive()
    jobs = [(job_of(num_rows, priority), leaves) for num_rows, priority, leaves in given_jobs]
    for job, _ in jobs:
        naive.arrived += put(queue, job)
    for job, leaves in jobs:
        if leaves:
            job.drop()
    waiting = naive.waiting
    taken = queue.pop(min(popped, len(waiting)))
    assert taken == naive.pop(popped)
    assert list(queue) == naive.waiting
    assert queue.num_rows == naive.num_rows()


def test_priorities_come_first_and_arrival_next() -> None:
    queue = RowQueue()
    jobs = [job_of(priority=priority) for priority in (3, 0, 1, 2, 1, 0, 9)]
    for job in jobs:
        put(queue, job)
    assert [piece.job.priority for piece in queue.pop(7)] == [1, 1, 0, 2, 0, 3, 9]
    assert [rank_of(job_of(rows, priority)) for rows in (4, 5) for priority in (0, 1, 2)] == [
        4,
        2,
        4,
        5,
        3,
        5,
    ]


def test_work_before_is_that_of_its_own_priority_and_of_better_ones() -> None:
    queue = RowQueue()
    for num_rows, priority in ((1, 1), (2, 1), (10, 2), (100, 0), (1000, 3)):
        put(queue, job_of(num_rows, priority))
    before = [queue.work_before(priority, is_long=True) for priority in (0, 1, 2, 3, 4)]
    assert before == [113, 3, 113, 1113, 1113]
    # Of the long ones of its own priority a short one waits for a piece, and for one after each short one.
    assert [queue.work_before(priority) for priority in (0, 1, 2, 3, 4)] == [7, 3, 7, 117, 1113]
    put(queue, job_of(3, 2))
    assert queue.work_before(0) == 3 + 3 + (3 + LARGEST)


def test_short_and_long_jobs_take_turns() -> None:
    queue = RowQueue()
    long = [put(queue, job_of(12)) for _ in range(4)]
    assert queue.pop(1) == long[0][:1]
    short = [put(queue, job_of())[0] for _ in range(6)]
    batches = []
    while queue.num_rows:
        batches.append(queue.pop(len(queue.head(LARGEST))))
    waiting = iter([piece for pieces in long for piece in pieces][1:])
    assert batches[:4] == [short[:4], [next(waiting)], short[4:], [next(waiting)]]
    assert batches[4:] == [[piece] for piece in waiting]


def test_a_job_that_fails_with_half_of_its_pieces_taken_takes_the_other_half_along() -> None:
    queue = RowQueue()
    long, mate = job_of(10), job_of(1)
    put(queue, long)
    put(queue, mate)
    assert queue.pop(1)[0].num_rows == 4
    long.fail(ValueError("its first piece"))
    long.fail(ValueError("again"))
    long.drop()
    assert (queue.num_rows, queue.work_before(0)) == (1, 1)
    assert [piece.job for piece in queue.pop(1)] == [mate]
    assert (queue.num_rows, list(queue), queue.head(1)) == (0, [], [])


def num_held(queue: RowQueue) -> int:
    """How many objects the queue keeps, in all of its attributes and their members."""
    held = 0
    for value in vars(queue).values():
        if hasattr(value, "__len__"):
            held += len(value)
        if isinstance(value, dict):
            held += sum(len(inner) for inner in value.values() if hasattr(inner, "__len__"))
    return held


@pytest.mark.parametrize("waiting", [0, 1, 20])
@pytest.mark.parametrize("num_rows", [1, 11])
def test_case_31_jobs_cancelled_without_end_leave_nothing_behind(num_rows: int, waiting: int) -> None:
    queue = RowQueue()
    for _ in range(waiting):
        put(queue, job_of())
    most = 0
    for turn in range(3000):
        job = job_of(num_rows, priority=turn % 5)
        put(queue, job)
        job.drop()
        most = max(most, num_held(queue))
    assert most < 300
    assert queue.num_rows == waiting
    assert len(list(queue)) == waiting


def test_case_31_priorities_without_end_leave_nothing_behind() -> None:
    queue = RowQueue()
    put(queue, job_of(priority=9999))
    held = num_held(queue)
    for priority in range(3000):
        put(queue, job_of(priority=priority))
        queue.pop(1)
    assert (queue.num_rows, num_held(queue)) == (1, held)
    queue.pop(1)
    assert (queue.num_rows, num_held(queue)) == (0, 0)


class Pixels(np.ndarray):
    """An array that can be watched."""


@pytest.mark.parametrize("last", ["cancelled", "taken"])
def test_case_31_an_empty_queue_keeps_no_rows(last: str) -> None:
    queue = RowQueue()
    first = job_of(priority=1)
    put(queue, first)
    watched = []
    for _ in range(40):
        pixels = np.zeros(3).view(Pixels)
        watched.append(weakref.ref(pixels))
        job = job_of()
        queue.put(job, pieces_of(job, {"x": pixels}, LARGEST))
        job.drop()
    del pixels
    if last == "cancelled":
        first.drop()
    else:
        queue.pop(1)
    gc.collect()
    assert queue.num_rows == 0
    assert [pixels() for pixels in watched if pixels() is not None] == []
