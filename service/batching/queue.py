"""The rows that wait, in the order in which they will run: by priority and then by arrival.

In: pieces of jobs.  Out: the pieces that should run next.

    priority 1 before 2 before 3 …;  0 (the client names none) stands for DEFAULT_PRIORITY

A plain data structure: no clock, no event loop, no locks. The rows of a job that settles while it waits leave
the count at once; its pieces are passed over when their turn comes.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterator

from service.batching.job import Job, Piece

DEFAULT_PRIORITY = 2
_SLACK = 64


class RowQueue:
    """Pieces that wait; `num_rows` are the rows of those whose jobs are not settled."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._clear()

    def put(self, job: Job, pieces: list[Piece]) -> None:
        """Append all pieces of a job to its priority; the job tells this queue when it settles."""
        level = level_of(job)
        waiting = self._levels.get(level)
        if waiting is None:
            waiting = self._levels[level] = deque()
            self._rows_at[level] = 0
            insort(self._order, level)
        waiting.extend(pieces)
        self._num_pieces += len(pieces)
        self._rows_of[job] = job.num_rows
        self._rows_at[level] += job.num_rows
        self.num_rows += job.num_rows
        job.on_settled = self._remove

    def __iter__(self) -> Iterator[Piece]:
        """Pieces in the order in which they will run."""
        for level in self._order:
            for piece in self._levels[level]:
                if not piece.job.is_settled:
                    yield piece

    def head(self, num_rows: int) -> list[Piece]:
        """The pieces that run next, of at most `num_rows` together; the first one however many it has."""
        pieces: list[Piece] = []
        for piece in self:
            num_rows -= piece.num_rows
            if pieces and num_rows < 0:
                break
            pieces.append(piece)
        return pieces

    def pop(self, count: int) -> list[Piece]:
        """Take the next `count` pieces out; there must be as many."""
        taken: list[Piece] = []
        while len(taken) < count:
            level = self._order[0]
            waiting = self._levels[level]
            piece = waiting.popleft()
            self._num_pieces -= 1
            if not piece.job.is_settled:
                self._count_off(piece.job, level, piece.num_rows)
                taken.append(piece)
            if not waiting:
                del self._levels[level], self._rows_at[level], self._order[0]
        if self.num_rows == 0:
            self._clear()
        return taken

    def rows_before(self, priority: int) -> int:
        """How many of the waiting rows will run before those of a new job of this priority."""
        own = priority or DEFAULT_PRIORITY
        return sum(rows for level, rows in self._rows_at.items() if level <= own)

    def _remove(self, job: Job) -> None:
        """Count off the waiting rows of a job that has settled."""
        self._count_off(job, level_of(job), self._rows_of[job])
        if self.num_rows == 0:
            self._clear()
        elif self._num_pieces > 2 * len(self._rows_of) + self.num_rows + _SLACK:
            # Pieces of settled jobs go when their turn comes. Callers who hang up faster than batches run
            # would let them pile up without a bound, each with its rows.
            self._compact()

    def _clear(self) -> None:
        self._levels: dict[int, deque[Piece]] = {}
        self._order: list[int] = []
        self._rows_at: dict[int, int] = {}
        self._rows_of: dict[Job, int] = {}
        self._num_pieces = 0

    def _count_off(self, job: Job, level: int, num_rows: int) -> None:
        self.num_rows -= num_rows
        self._rows_at[level] -= num_rows
        self._rows_of[job] -= num_rows
        if self._rows_of[job] == 0:
            del self._rows_of[job]
            job.on_settled = None  # all of it is taken: its end is no longer this queue's concern

    def _compact(self) -> None:
        for level in list(self._order):
            kept = deque(piece for piece in self._levels[level] if not piece.job.is_settled)
            if kept:
                self._levels[level] = kept
            else:
                del self._levels[level], self._rows_at[level]
                self._order.remove(level)
        self._num_pieces = sum(map(len, self._levels.values()))


def level_of(job: Job) -> int:
    """The job's place among the priorities: 1 runs first."""
    return job.priority or DEFAULT_PRIORITY
