"""The rows that wait, in the order in which they will run: by priority and then by arrival.

In: pieces of jobs.  Out: the pieces that should run next.

    priority 1 before 2 before 3 …;  0 (the client names none) stands for DEFAULT_PRIORITY
    after a batch of a long job (of several pieces) one of short jobs (of one piece), if any wait

In the order of arrival alone one client's 1024 rows would hold up every other client for all of their time,
and four such clients without end. By turns a short job waits for one batch of a long one, and a long job
takes at most twice as long (docs/decisions/0036-short-and-long-take-turns.md).

Rows of different sizes never share a batch. The oldest row of the highest priority decides the size of the
next batch, and those that wait with the same size join it: so no row waits for more batches than there were
rows before it, whatever sizes other clients send. Rows of a lower priority join only where none of a higher
one would be passed over.

A plain data structure: no clock, no event loop, no locks. The rows of a job that settles while it waits leave
the count at once; its pieces are passed over when their turn comes.
"""

import math
from bisect import insort
from collections import deque
from collections.abc import Iterator

from service.batching.job import Job, Piece

DEFAULT_PRIORITY = 2
_SLACK = 64

SizeKey = tuple[int, ...]


class Level:
    """The short or the long jobs of one priority: their pieces by size, and what their rows cost.

    `work` leaves settled ones out.
    """

    def __init__(self) -> None:
        self.by_size: dict[SizeKey, deque[Piece]] = {}
        self.work = 0.0

    @property
    def first_work(self) -> float:
        """What one piece costs; roughly, if there are several sizes."""
        for waiting in self.by_size.values():
            for piece in waiting:
                return piece.num_rows * piece.job.size.cost
        return 0.0


class RowQueue:
    """Pieces that wait; `num_rows`, of short jobs `num_short_rows`, are those whose jobs are not settled."""

    def __init__(self) -> None:
        self._num_pieces = 0
        self.num_rows = 0
        self.num_short_rows = 0
        self._num_arrivals = 0
        self._clear()

    def put(self, job: Job, pieces: list[Piece]) -> None:
        """Append all pieces of a job to its priority; the job tells this queue when it settles."""
        rank = rank_of(job)
        level = self._levels.get(rank)
        if level is None:
            level = self._levels[rank] = Level()
            insort(self._order, rank)
        size = job.size
        waiting = level.by_size.get(size.key)
        if waiting is None:
            waiting = level.by_size[size.key] = deque()
        waiting.extend(pieces)
        self._num_arrivals += 1
        job.arrival = self._num_arrivals
        self._num_pieces += len(pieces)
        self._num_jobs += 1
        num_rows = job.waiting_rows = job.num_rows
        level.work += num_rows * size.cost
        self.num_rows += num_rows
        if not job.is_long:
            self.num_short_rows += num_rows
        job.on_settled = self._remove

    def __iter__(self) -> Iterator[Piece]:
        """All pieces, by priority and then by arrival, those of short or of long jobs first."""
        for rank in self._ranks():
            by_size = self._levels[rank].by_size
            pieces = [piece for waiting in by_size.values() for piece in waiting if not piece.job.is_settled]
            if len(by_size) > 1:
                pieces.sort(key=_arrival)
            yield from pieces

    def head(self, num_rows: int) -> list[Piece]:
        """The pieces that run next, all of one size, of at most `num_rows` together.

        The first one however many it has; never more than a batch of that size may have.
        """
        pieces: list[Piece] = []
        for waiting in self._next_size()[1]:
            for piece in waiting:
                if piece.job.is_settled:
                    continue
                if not pieces:
                    num_rows = min(num_rows, piece.job.size.max_rows)
                num_rows -= piece.num_rows
                if pieces and num_rows < 0:
                    return pieces
                pieces.append(piece)
        return pieces

    def pop(self, count: int) -> list[Piece]:
        """Take the next `count` pieces out; there must be as many in the head."""
        taken: list[Piece] = []
        key, turn = self._next_size()
        for waiting in turn:
            while waiting and len(taken) < count:
                piece = waiting.popleft()
                self._num_pieces -= 1
                if not piece.job.is_settled:
                    self._count_off(piece.job, piece.num_rows)
                    taken.append(piece)
        if taken:
            self._was_long = taken[0].job.is_long
        if self.num_rows == 0:
            self._clear()
        else:
            self._drop_empty(key)
        return taken

    def work_before(self, priority: int, *, is_long: bool = False) -> float:
        """How much waits that will run before a new job of this priority, in rows of cost 1."""
        own = 2 * (priority or DEFAULT_PRIORITY)
        work = short = 0.0
        for rank in self._order:
            level = self._levels[rank]
            if rank <= own:
                work += level.work
                short = level.work if rank == own else 0.0
            elif rank == own + 1:
                # Of the long jobs a short one waits for one batch, and for one after each of its kind.
                work += level.work if is_long else min(level.work, short + level.first_work)
        return work

    def _ranks(self) -> list[int]:
        """The levels in the order in which they run."""
        if len(self._order) == 1 or self._was_long:
            return self._order  # short jobs before the long ones of their priority
        ranks = self._order.copy()
        for index in range(len(ranks) - 1):
            short, long = ranks[index], ranks[index + 1]
            if long == short + 1 and long % 2 and self._arrival(long) < self._arrival(short):
                ranks[index], ranks[index + 1] = long, short
        return ranks

    def _arrival(self, rank: int) -> float:
        oldest = _oldest(self._levels[rank].by_size)
        return math.inf if oldest is None else oldest.job.arrival

    def _next_size(self) -> tuple[SizeKey, list[deque[Piece]]]:
        """The size of the next batch, and where its pieces wait: one deque for each level, in order."""
        key: SizeKey = ()
        turn: list[deque[Piece]] = []
        for rank in self._ranks():
            by_size = self._levels[rank].by_size
            if not turn:
                first = _oldest(by_size)
                if first is None:
                    continue  # all of this level has settled
                key = first.job.size.key
            elif key not in by_size:
                break
            turn.append(by_size[key])
            if len(by_size) > 1:
                break
        return key, turn

    def _drop_empty(self, key: SizeKey) -> None:
        for rank in list(self._order):
            by_size = self._levels[rank].by_size
            if key in by_size and not by_size[key]:
                del by_size[key]
            if not by_size:
                del self._levels[rank]
                self._order.remove(rank)

    def _remove(self, job: Job) -> None:
        """Count off the waiting rows of a job that has settled."""
        self._count_off(job, job.waiting_rows)
        if self.num_rows == 0:
            self._clear()
        elif self._num_pieces > 2 * self._num_jobs + self.num_rows + _SLACK:
            # Pieces of settled jobs go when their turn comes. Callers who hang up faster than batches run
            # would let them pile up without a bound, each with its rows.
            self._compact()

    def _clear(self) -> None:
        self._levels: dict[int, Level] = {}
        self._order: list[int] = []
        self._was_long = False  # the batch that was taken last
        self._num_pieces = 0
        self._num_jobs = 0  # with rows that wait

    def _count_off(self, job: Job, num_rows: int) -> None:
        self.num_rows -= num_rows
        if not job.is_long:
            self.num_short_rows -= num_rows
        self._levels[rank_of(job)].work -= num_rows * job.size.cost
        job.waiting_rows -= num_rows
        if job.waiting_rows == 0:
            self._num_jobs -= 1
            job.on_settled = None  # all of it is taken: its end is no longer this queue's concern

    def _compact(self) -> None:
        self._num_pieces = 0
        for rank in list(self._order):
            level = self._levels[rank]
            kept = {
                key: left
                for key, waiting in level.by_size.items()
                if (left := deque(piece for piece in waiting if not piece.job.is_settled))
            }
            self._num_pieces += sum(map(len, kept.values()))
            if kept:
                level.by_size = kept
            else:
                del self._levels[rank]
                self._order.remove(rank)


def rank_of(job: Job) -> int:
    """The job's place among the levels: two for each priority, short jobs even, long ones odd."""
    return 2 * (job.priority or DEFAULT_PRIORITY) + job.is_long


def _oldest(by_size: dict[SizeKey, deque[Piece]]) -> Piece | None:
    """The piece that arrived first of those whose jobs are not settled."""
    oldest: Piece | None = None
    for waiting in by_size.values():
        for piece in waiting:
            if not piece.job.is_settled:
                if oldest is None or piece.job.arrival < oldest.job.arrival:
                    oldest = piece
                break
    return oldest


def _arrival(piece: Piece) -> int:
    return piece.job.arrival
