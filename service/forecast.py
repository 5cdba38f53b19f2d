"""How long things take: a latency curve, kept true by what happens, and what follows from it.

In: seconds of one batch in each bucket, as measured at load; then every batch that runs.
Out: which rows to run next; when a new job would be answered; when to come again.

    rate(n rows)    = n / seconds(smallest bucket ≥ n)                 the batch with the best rate runs
    drain(n rows)   = ⌈n / best bucket⌉ · seconds(best bucket) / lanes
    answer(n rows)  = drain(rows before it, and half of what runs) + seconds(its own batch)
    promise         = answer · (bias + 3 · spread)          both smoothed from actual / forecast, as TCP does

A promise is what a deadline is held against, so that an accepted job is nearly always in time.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

SMOOTHING = 0.1
_FEWEST_SECONDS = 1e-9


class Forecast:
    """What one engine's batches take. `lanes` batches run at once; `seconds` may be empty at first."""

    def __init__(self, buckets: Sequence[int], seconds: Mapping[int, float], lanes: int = 1) -> None:
        self.buckets = tuple(buckets)
        self.lanes = lanes
        self._seconds = {bucket: seconds[bucket] for bucket in buckets if bucket in seconds}
        self._bias = 1.0
        self._spread = 0.1
        self._draw()

    def bucket(self, num_rows: int) -> int:
        """The smallest bucket that holds `num_rows`, at most the largest."""
        return self.buckets[min(bisect_left(self.buckets, num_rows), len(self.buckets) - 1)]

    def batch_s(self, num_rows: int) -> float:
        """Seconds of a batch of `num_rows`; of an unseen bucket, those of the nearest seen one below it."""
        return self._curve[min(bisect_left(self.buckets, num_rows), len(self.buckets) - 1)]

    def best_count(self, sizes: Sequence[int], slacks: Sequence[float]) -> int:
        """How many of the pieces that wait to run now: those with the best rate that keep every deadline.

        `sizes` are their rows, in order, within the largest bucket together; `slacks` the seconds that each
        one's deadline leaves. The first piece runs whatever its slack.
        """
        best, best_rate = 1, 0.0
        num_rows = 0
        slack = math.inf
        for count, (size, own_slack) in enumerate(zip(sizes, slacks, strict=True), 1):
            num_rows += size
            slack = min(slack, own_slack)
            seconds = max(self.batch_s(num_rows), _FEWEST_SECONDS)
            if count > 1 and seconds > slack:
                break
            if num_rows / seconds >= best_rate:
                best, best_rate = count, num_rows / seconds
        return best

    def drain_s(self, num_rows: int) -> float:
        """Seconds until `num_rows` that wait have been run."""
        if num_rows <= 0:
            return 0.0
        return -(-num_rows // self.best_bucket) * self._best_s / self.lanes

    def answer_s(self, rows_before: int, running_rows: int, num_rows: int) -> float:
        """Seconds until a new job of `num_rows` would be answered."""
        own = self.batch_s(num_rows)
        if num_rows > self.buckets[-1]:
            own = self.drain_s(num_rows)
        return self.drain_s(rows_before + running_rows // 2) + own

    def promise_s(self, answer_s: float) -> float:
        """A forecast as it should be told: what such forecasts came to, and some of their scatter."""
        return answer_s * (self._bias + 3 * self._spread)

    def note_batch(self, num_rows: int, seconds: float) -> None:
        """A batch has run."""
        bucket = self.bucket(num_rows)
        known = self._seconds.get(bucket, seconds)
        self._seconds[bucket] = known + SMOOTHING * (seconds - known)
        self._draw()

    def note_job(self, forecast_s: float, actual_s: float) -> None:
        """A job was answered: how true was its forecast?"""
        if forecast_s > 0:
            ratio = min(actual_s / forecast_s, 10.0)
            self._spread += SMOOTHING / 4 * (abs(ratio - self._bias) - self._spread)
            self._bias += SMOOTHING / 4 * (ratio - self._bias)

    def _draw(self) -> None:
        """Draw the curve anew: seconds of every bucket, and the bucket with the most rows a second."""
        least = min(self._seconds.values(), default=0.0)
        curve: list[float] = []
        for bucket in self.buckets:
            curve.append(self._seconds.get(bucket, curve[-1] if curve else least))
        self._curve = curve
        rates = [
            bucket / max(took, _FEWEST_SECONDS) for bucket, took in zip(self.buckets, curve, strict=True)
        ]
        best = rates.index(max(rates))
        self.best_bucket, self._best_s = self.buckets[best], curve[best]
