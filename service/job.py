"""A job: one caller's rows on their way through the queue, and the future that its caller awaits.

In: named arrays, rows first.  Out: the answers to exactly these rows, or one error, whichever comes first.

A job of more rows than the largest batch travels in pieces; the job puts the answers together again.
The future lives here and nowhere else, so that nobody can settle a neighbour's.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Tensors = Mapping[str, np.ndarray]


class Job:
    """One caller's rows; settled once, by its answers, an error, its deadline or its caller's hanging up."""

    __slots__ = (
        "_missing",
        "_parts",
        "compute_s",
        "deadline",
        "future",
        "num_rows",
        "queue_s",
        "submitted_at",
        "timer",
    )

    def __init__(
        self,
        *,
        num_rows: int,
        num_pieces: int,
        future: "asyncio.Future[Tensors]",
        submitted_at: float,
        deadline: float | None = None,
    ) -> None:
        self.future = future
        self.num_rows = num_rows
        self.submitted_at = submitted_at
        self.deadline = deadline
        self.timer: asyncio.TimerHandle | None = None
        self.queue_s = 0.0
        self.compute_s = 0.0
        self._missing = num_pieces
        self._parts: list[Tensors | None] = [None] * num_pieces

    @property
    def is_settled(self) -> bool:
        return self.future.done()

    def deliver(self, index: int, answers: Tensors) -> None:
        """Take the answers to piece `index`; the last one settles the job."""
        if self.future.done():
            return
        self._parts[index] = answers
        self._missing -= 1
        if self._missing == 0:
            parts = [part for part in self._parts if part is not None]
            self._settle()
            self.future.set_result(parts[0] if len(parts) == 1 else _joined(parts))

    def fail(self, error: Exception) -> None:
        """Settle with an error, unless the job is settled already."""
        if not self.future.done():
            self._settle()
            self.future.set_exception(error)

    def drop(self) -> None:
        """Settle with nothing: the caller has gone."""
        self._settle()
        self.future.cancel()

    def _settle(self) -> None:
        self._parts.clear()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What the queue holds: a job's rows, or as many of them as fit in one batch."""

    job: Job
    index: int
    tensors: Tensors
    num_rows: int


def pieces_of(job: Job, tensors: Tensors, largest: int) -> list[Piece]:
    """The job's rows in order, at most `largest` in a piece."""
    if job.num_rows <= largest:
        return [Piece(job, 0, tensors, job.num_rows)]
    pieces = []
    for index, start in enumerate(range(0, job.num_rows, largest)):
        stop = min(start + largest, job.num_rows)
        rows = {name: array[start:stop] for name, array in tensors.items()}
        pieces.append(Piece(job, index, rows, stop - start))
    return pieces


def _joined(parts: Sequence[Tensors]) -> Tensors:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
