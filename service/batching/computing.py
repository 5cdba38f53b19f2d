"""What lanes compute, or what lies ready for them: how many rows, and when one of the lanes will be free.

In: batches that are handed over, with the time when each should end.  Out: rows, seconds.

A batch that is over its time may end at any moment, but has not: only where no lane is busy is one free now.
"""

from dataclasses import dataclass

from service.batching.job import Piece

MIN_REMAINING_S = 1e-6


@dataclass(slots=True, eq=False)
class Running:
    """A batch that was handed over, and when it should end."""

    batch: list[Piece]
    num_rows: int
    ends_at: float


class Computing:
    """The batches of one engine that have no answers yet."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._batches: set[Running] = set()

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, running: Running) -> None:
        """It is handed over."""
        self._batches.add(running)
        self.num_rows += running.num_rows

    def release(self, running: Running) -> None:
        """Its lane is free; harmless when it was already."""
        if running in self._batches:
            self._batches.discard(running)
            self.num_rows -= running.num_rows

    def free_in_s(self, now: float, num_lanes: int) -> float:
        """Seconds until one of `num_lanes` is free for what is not handed over yet; 0 only if one is."""
        num_ahead = len(self._batches) - num_lanes
        if num_ahead < 0:
            return 0.0
        ends_at = sorted(running.ends_at for running in self._batches)[num_ahead]
        return max(MIN_REMAINING_S, ends_at - now)
