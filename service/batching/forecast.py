"""How long things take: a latency curve, kept true by what happens, and what follows from it.

In: seconds of one batch in each bucket, as measured at load; then every batch that runs.
Out: how many rows to run next; when a new job would be answered.

    seconds(n rows) = (curve(smallest bucket ≥ n) · slowdown + overhead) · cost
    rate(n rows)    = n / (seconds(n) + a hand-over)    the smallest batch runs whose rate comes near the best
    drain(n rows)   = ⌈n / best bucket⌉ · seconds(best bucket) / lanes
    alone(n rows)   = its pieces in turn, over the lanes
    answer(n rows)  = until a lane is free + the rows before it and its own, in best batches
    promise         = answer · (bias + 3 · spread)

Where a net leaves sizes open, the curve is that of one size, and the `cost` of a row of another one is how
many times as long it takes; else it is 1.

Slowdown (engine seconds over the curve's), overhead (seconds of a batch outside the engine), bias and spread
(of answers over their forecasts, a turn of the event loop added to both) are smoothed as TCP smooths its
round trips. A promise is what a deadline is held against, so that an accepted job is nearly always in time.
Why it is measured while serving, and not only at load: docs/decisions/0011-measured-not-believed.md.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

SMOOTHING = 0.1
NEAR = 0.97  # a rate that comes so near the best is as good: measurements scatter by more
HAND_OVER_S = 0.0002  # what a batch costs the event loop beside its rows (decision 22)
LOOP_TURN_S = 0.01  # a turn of a busy event loop: errors of that size in short forecasts mean nothing
STEADY_AFTER = 256  # batches in a row that took about what the curve says
STALL_S = 0.02  # a pause of a busy machine, which says nothing about the net
_MAX_RATIO = 10.0  # one stall must not teach more than this, or it would take minutes to forget
_MIN_SECONDS = 1e-9  # a clock may not resolve a batch, and a rate must be finite


class Forecast:
    """The seconds of one engine's batches, `lanes` of which run at once.

    `buckets` are the allowed batch sizes, ascending; `curve` the seconds of some, as measured at load.
    """

    def __init__(self, buckets: Sequence[int], curve: Mapping[int, float], lanes: int = 1) -> None:
        self.buckets = tuple(buckets)
        self.lanes = lanes
        self._curve = {bucket: curve[bucket] for bucket in buckets if bucket in curve}
        self._slowdown = 1.0
        self._overhead_s = 0.0
        self._bias = 1.0
        self._spread = 0.1
        self._num_steady = 0
        self._draw_curve()

    def bucket(self, num_rows: int) -> int:
        """The smallest bucket that holds `num_rows`, at most the largest."""
        return self.buckets[self._place(num_rows)]

    def batch_s(self, num_rows: float, cost: float = 1.0) -> float:
        """Seconds of a batch of `num_rows`; of an unseen bucket, those of the nearest seen one below it."""
        return self._seconds[self._place(num_rows)] * cost

    def best_count(self, sizes: Sequence[int], slacks: Sequence[float], cost: float = 1.0) -> int:
        """How many of the pieces that wait should run now: the fewest with a rate near the best, all in time.

        `sizes` are their rows, in order, within the largest bucket together; `slacks` the seconds that each
        one's deadline leaves. The first piece runs however little slack it has: late is better than never.
        """
        # For each bucket: how many pieces fill it best, and its rate. A bucket costs the same however full it
        # is, so only its fullest batch counts.
        fullest: dict[int, tuple[int, float]] = {}
        num_rows = place = 0
        slack = math.inf
        seconds = self._seconds[0] * cost
        for index in range(len(sizes)):
            num_rows += sizes[index]
            while num_rows > self.buckets[place] and place < len(self.buckets) - 1:
                place += 1
                seconds = self._seconds[place] * cost
            slack = min(slack, slacks[index])
            if index > 0 and seconds > slack:
                break  # a larger bucket takes longer still
            fullest[place] = (index + 1, num_rows / (seconds + HAND_OVER_S))
        enough = NEAR * max(rate for _, rate in fullest.values())
        return next(count for count, rate in fullest.values() if rate >= enough)

    def alone_s(self, num_rows: int, cost: float = 1.0) -> float:
        """Seconds of a job of `num_rows` when nothing else waits or runs."""
        return self._in_turn(num_rows, self._seconds) * cost

    def minimum_s(self, num_rows: int, cost: float = 1.0) -> float:
        """The same on an engine as fast as at load: no deadline may be shorter."""
        return self._in_turn(num_rows, self._base) * cost

    def _in_turn(self, num_rows: int, seconds: Sequence[float]) -> float:
        """Seconds of a job's pieces over the lanes, by the `seconds` of each bucket."""
        whole, rest = divmod(num_rows, self.buckets[-1])
        rounds, odd = divmod(whole, self.lanes)
        if odd:  # another lane computes the rest beside the whole batches of the last round
            return (rounds + 1) * seconds[-1]
        return rounds * seconds[-1] + (seconds[self._place(rest)] if rest else 0.0)

    def drain_s(self, work: float) -> float:
        """Seconds until all that waits has been run; `work` is that in rows of cost 1."""
        return -(-work // self.best_bucket) * self._best_s / self.lanes

    def finish_s(self, work_before: float, num_rows: int, cost: float = 1.0) -> float:
        """Seconds until `num_rows` have run after `work_before`, from when a lane is free."""
        if work_before == 0:
            return self.alone_s(num_rows, cost)
        work = work_before + num_rows * cost
        whole = work // self.best_bucket
        rest = work - whole * self.best_bucket
        return whole * self._best_s / self.lanes + (self.batch_s(rest) if rest else 0.0)

    def promise_s(self, answer_s: float) -> float:
        """The seconds to promise for a forecast: `answer_s` corrected by bias, with room for scatter."""
        return answer_s * self.caution

    @property
    def caution(self) -> float:
        """The factor from a forecast to a promise."""
        return self._bias + 3 * self._spread

    @property
    def is_steady(self) -> bool:
        """Whether the curve can be trusted: a graph's loops may take as long as its rows tell them to."""
        return self._num_steady >= STEADY_AFTER

    def note_batch(self, num_rows: int, engine_s: float, turnaround_s: float, cost: float = 1.0) -> None:
        """Learn from a batch: `engine_s` in the engine, `turnaround_s` until its answers could be dealt."""
        expected = cost * self._curve.setdefault(self.bucket(num_rows), engine_s / self._slowdown / cost)
        ratio = min(engine_s / max(expected, _MIN_SECONDS), _MAX_RATIO)
        # In a row: a graph that has once taken far longer than its curve may do so again at any time.
        self._num_steady = self._num_steady + 1 if engine_s <= expected * _MAX_RATIO + STALL_S else 0
        self._slowdown += SMOOTHING * (ratio - self._slowdown)
        self._overhead_s += SMOOTHING * (max(0.0, turnaround_s - engine_s) - self._overhead_s)
        self._draw_curve()

    def note_job(self, forecast_s: float, actual_s: float) -> None:
        """Learn from a job that ended `actual_s` after it was submitted, with an answer or too late."""
        if forecast_s > 0:  # an engine whose curve is not known yet forecasts nothing
            ratio = min((actual_s + LOOP_TURN_S) / (forecast_s + LOOP_TURN_S), _MAX_RATIO)
            self._spread += SMOOTHING / 4 * (abs(ratio - self._bias) - self._spread)
            self._bias += SMOOTHING / 4 * (ratio - self._bias)

    def _place(self, num_rows: float) -> int:
        return min(bisect_left(self.buckets, num_rows), len(self.buckets) - 1)

    def _draw_curve(self) -> None:
        """Set the seconds of every bucket, at load and now, and the bucket with the highest rows per second.

        Drawn when a batch has taught something, because every request asks: it is looked up there.
        """
        base: list[float] = []
        known = min(self._curve.values(), default=0.0)
        for bucket in self.buckets:
            known = self._curve.get(bucket, known)
            base.append(known)
        self._base = base
        self._seconds = [seconds * self._slowdown + self._overhead_s for seconds in base]
        pairs = zip(self.buckets, self._seconds, strict=True)
        self.best_bucket, self._best_s = max(pairs, key=lambda pair: pair[0] / max(pair[1], _MIN_SECONDS))
