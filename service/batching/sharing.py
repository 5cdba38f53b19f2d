"""How the rows that wait are shared among lanes: how many make a batch, and which batches are worth a thread.

In: a forecast, numbers of rows.  Out: a fair share, yes or no.

    here              = no lane at all, if none computes and all that waits is done sooner than handed over
    lanes             = all, if ⌈rows that wait or run / lanes⌉ are worth another thread's waking up, else one
    share of a lane   = ⌈rows that wait or run / lanes⌉, so that one's rows are dealt while another computes
    with one ahead    = ⌈the same / (lanes + 1)⌉: a batch lies ready for the lane that is free next

A second thread costs the event loop its core; a lane that has to ask the event loop for its next batch stands
still meanwhile. Both are measured in docs/decisions/0022-one-batch-ahead.md.
"""

from service.batching.forecast import Forecast

INLINE_BELOW_S = 0.0004
LANE_FROM_S = 0.001
AHEAD_FROM_S = 0.0005
MAX_AHEAD_S = 0.01  # urgent rows wait for what lies ready


class Sharing:
    """The rows of one engine, as its forecast sees them; unknown seconds are taken for long ones."""

    def __init__(self, forecast: Forecast, largest: int) -> None:
        self._forecast = forecast
        self._largest = largest

    def is_worth_handing_over(self, num_rows: int) -> bool:
        """Whether a lane would compute longer than the event loop takes to wake it and to be woken by it."""
        return not (self._forecast.is_steady and 0 < self._minimum_s(num_rows) < INLINE_BELOW_S)

    def is_worth_a_lane(self, num_rows: int) -> bool:
        """Whether so many rows are worth another thread's waking up."""
        return not 0 < self._minimum_s(num_rows) < LANE_FROM_S

    def is_worth_lying_ready(self, num_rows: int) -> bool:
        """Whether a pause before such a batch would count, and urgent rows would not wait long for it."""
        return self._minimum_s(num_rows) >= AHEAD_FROM_S and self._forecast.batch_s(num_rows) < MAX_AHEAD_S

    def lanes(self, num_rows: int) -> int:
        """How many lanes so many rows are worth."""
        lanes = self._forecast.lanes
        return lanes if self.is_worth_a_lane(-(-num_rows // lanes)) else 1

    def share(self, num_rows: int) -> int:
        """A lane's share of all rows that wait or run."""
        lanes = self.lanes(num_rows)
        with_one_ahead = -(-num_rows // (lanes + 1))
        return with_one_ahead if self.is_worth_lying_ready(with_one_ahead) else -(-num_rows // lanes)

    def _minimum_s(self, num_rows: int) -> float:
        return self._forecast.minimum_s(min(num_rows, self._largest))
