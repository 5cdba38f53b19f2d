"""A job: one caller's rows on their way through the queue, and the callback for when it ends.

In: named arrays, rows first.  Out: the answers to exactly these rows, or one error, whichever comes first.

A job of more rows than the largest batch travels in pieces; the job joins their answers again.
The callback lives in the job and nowhere else, so that no caller can be given a neighbour's answer. Settling
belongs to the event loop's thread alone.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_log = logging.getLogger("foldserve")

Tensors = Mapping[str, np.ndarray]
OnEnd = Callable[["Job"], None]


@dataclass(frozen=True, slots=True)
class RowSize:
    """What rows that may share a batch have in common.

    Args:
        key: the sizes that their net leaves open; rows with different keys never share a batch.
        max_rows: the maximum of a batch of such rows.
        cost: how many times as long as a row of the forecast's curve one of them takes.
    """

    key: tuple[int, ...] = ()
    max_rows: int = 1 << 31
    cost: float = 1.0


ONE_SIZE = RowSize()  # of all rows of a net whose sizes are fixed


class Job:
    """One caller's rows; settled once, by its answers, an error, its deadline or its caller's hanging up.

    `on_end` is called with the job once it has `answers` or an `error`, and never after `drop`. `on_settled`
    is how the queue that holds a job's rows learns that they wait no longer; it is called before `on_end`.
    All rows of a job have one `size`.
    Times are of the batcher's clock, `…_s` are seconds.
    """

    __slots__ = (
        "_missing",
        "_on_end",
        "_parts",
        "answers",
        "arrival",
        "compute_s",
        "deadline",
        "error",
        "expected_s",
        "is_long",
        "is_settled",
        "num_pieces",
        "num_rows",
        "on_settled",
        "priority",
        "queue_s",
        "size",
        "submitted_at",
        "timer",
        "waiting_rows",
    )

    def __init__(
        self,
        *,
        num_rows: int,
        num_pieces: int,
        on_end: OnEnd,
        submitted_at: float,
        deadline: float | None = None,
        priority: int = 0,
        expected_s: float = 0.0,
        size: RowSize = ONE_SIZE,
    ) -> None:
        self.num_rows = num_rows
        self.num_pieces = num_pieces
        self.is_long = num_pieces > 1
        self.submitted_at = submitted_at
        self.deadline = deadline
        self.priority = priority
        self.expected_s = expected_s
        self.size = size
        self.arrival = 0  # its number among all jobs of its queue
        self.waiting_rows = 0  # of its rows, those that its queue still holds
        self.timer: asyncio.TimerHandle | None = None
        self.queue_s = 0.0
        self.compute_s = 0.0
        self.answers: Tensors | None = None
        self.error: Exception | None = None
        self.is_settled = False
        self.on_settled: Callable[[Job], None] | None = None
        self._on_end = on_end
        self._missing = num_pieces
        self._parts: list[Tensors | None] = [None] * num_pieces

    def deliver(self, index: int, answers: Tensors) -> None:
        """Take the answers to piece `index`, rows first; the last missing piece settles the job."""
        if self.is_settled:
            return
        self._parts[index] = answers
        self._missing -= 1
        if self._missing == 0:
            parts = [part for part in self._parts if part is not None]
            self.answers = parts[0] if len(parts) == 1 else _joined(parts)
            self._end()

    def fail(self, error: Exception) -> None:
        """Settle with an error, unless the job is settled already."""
        if not self.is_settled:
            self.error = error
            self._end()

    def drop(self) -> None:
        """Settle with neither answers nor error, because the caller has gone; harmless once settled."""
        if not self.is_settled:
            self._settle()

    def is_late(self, now: float) -> bool:
        """Whether the deadline has passed at `now`."""
        return self.deadline is not None and self.deadline <= now

    def _end(self) -> None:
        on_end = self._on_end
        self._settle()
        try:
            on_end(self)
        except Exception:  # a callback that raises must not cost the other jobs of its batch their answers
            _log.exception("event=caller_failed")

    def _settle(self) -> None:
        self.is_settled = True
        # A caller's callback often points back at the job: kept, both and their rows would live on together.
        self._on_end = _ignore
        self._parts.clear()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        on_settled, self.on_settled = self.on_settled, None
        if on_settled is not None:
            on_settled(self)


@dataclass(slots=True, eq=False)
class Piece:
    """What the queue holds: a job's rows, or as many of them as fit in one batch."""

    job: Job
    index: int
    tensors: Tensors
    num_rows: int


@dataclass(slots=True, eq=False, kw_only=True)
class BatchResult:
    """A batch that has run: its answers, when the engine began (perf_counter), and its seconds in parts."""

    answers: Tensors
    begun: float
    input_s: float = 0.0
    compute_s: float = 0.0
    output_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds in the engine: rows copied in, computed, answers copied out."""
        return self.input_s + self.compute_s + self.output_s


def pieces_of(job: Job, tensors: Tensors, largest: int) -> list[Piece]:
    """The job's rows in order, at most `largest` in a piece; views, no rows are copied."""
    if job.num_rows <= largest:
        return [Piece(job, 0, tensors, job.num_rows)]
    pieces = []
    for index, start in enumerate(range(0, job.num_rows, largest)):
        stop = min(start + largest, job.num_rows)
        rows = {name: array[start:stop] for name, array in tensors.items()}
        pieces.append(Piece(job, index, rows, stop - start))
    return pieces


def _ignore(job: Job) -> None:
    """The callback of a job that is settled."""


def _joined(parts: Sequence[Tensors]) -> Tensors:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
