"""The batches that lanes compute, or that lie ready for them: how many rows, and when a lane will be free.

In: batches that are handed over, with the time when each should end.  Out: rows, seconds.

A batch that is over its time may end at any moment, but has not: its lane counts as busy for MIN_REMAINING_S.
"""

from dataclasses import dataclass

from service.batching.job import Piece

MIN_REMAINING_S = 1e-6  # of an overdue batch; 0 would say that a lane is free


@dataclass(slots=True, eq=False)
class RunningBatch:
    """A batch that was handed over, and when it should end, by the batcher's clock."""

    pieces: list[Piece]
    num_rows: int
    ends_at: float


class RunningBatches:
    """The batches of one engine that still occupy a lane, or wait for one; `num_rows` are theirs together."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._batches: set[RunningBatch] = set()

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, batch: RunningBatch) -> None:
        """Note a batch that is handed over to the lanes."""
        self._batches.add(batch)
        self.num_rows += batch.num_rows

    def release(self, batch: RunningBatch) -> None:
        """Note that the batch's lane is free; harmless if it was released before."""
        if batch in self._batches:
            self._batches.discard(batch)
            self.num_rows -= batch.num_rows

    def free_in_s(self, now: float, num_lanes: int) -> float:
        """Seconds until one of `num_lanes` is free for the next batch to be handed over; 0 only if one is."""
        num_ahead = len(self._batches) - num_lanes
        if num_ahead < 0:
            return 0.0
        # With a batch lying ready the next lane is taken already: what comes now waits for the second end.
        ends_at = sorted(batch.ends_at for batch in self._batches)[num_ahead]
        return max(MIN_REMAINING_S, ends_at - now)
