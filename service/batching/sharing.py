"""How the rows that wait are shared among lanes: how many make a batch, and which batches are worth a thread.

In: a forecast, numbers of rows.  Out: a fair share, yes or no.

    inline            = no lane at all, where none computes and all that waits is done sooner than handed over
    lanes             = all, if ⌈rows that wait or run / lanes⌉ are worth waking another thread, else one
    share of a lane   = ⌈rows that wait or run / lanes⌉, so that one's rows are dealt while another computes
    with one ahead    = ⌈the same / (lanes + 1)⌉: a batch lies ready for the lane that is free next

A second thread takes the event loop's core; a lane that has to ask the event loop for its next batch stands
still meanwhile. All four bounds were measured on 2 cores: docs/decisions/0022-one-batch-ahead.md.
"""

from service.batching.forecast import Forecast

# Seconds of a batch on an engine as fast as at load.
INLINE_BELOW_S = 0.0004  # less than handing a batch over and being woken by its end takes
LANE_FROM_S = 0.001  # from here on a second lane gains more than it takes from the event loop
AHEAD_FROM_S = 0.0005  # a lane's pause between two batches is lost in anything much longer …
MAX_AHEAD_S = 0.01  # … and urgent rows must not wait long for a batch that they could have overtaken


class Sharing:
    """The rows of one engine as its forecast sees them; unknown seconds (0) count as long ones."""

    def __init__(self, forecast: Forecast, largest: int) -> None:
        self._forecast = forecast
        self._largest = largest

    def is_worth_handing_over(self, num_rows: int) -> bool:
        """Whether a lane would compute longer than the event loop takes to wake it and to be woken by it.

        A graph that has not kept to its curve is always handed over: with a Loop in it, it takes as long as
        its rows tell it to, and inline it would stop every other request.
        """
        return not (self._forecast.is_steady and 0 < self._minimum_s(num_rows) < INLINE_BELOW_S)

    def is_worth_a_lane(self, num_rows: int) -> bool:
        """Whether so many rows are worth waking another thread."""
        return not 0 < self._minimum_s(num_rows) < LANE_FROM_S

    def is_worth_lying_ready(self, num_rows: int) -> bool:
        """Whether a pause before such a batch would count, and urgent rows would not wait long for it.

        The upper bound is held against the engine as it is now: one that has become slow is slow to overtake.
        """
        return self._minimum_s(num_rows) >= AHEAD_FROM_S and self._forecast.batch_s(num_rows) < MAX_AHEAD_S

    def lanes(self, num_rows: int) -> int:
        """How many lanes so many rows, waiting or running, are worth: all or one."""
        lanes = self._forecast.lanes
        return lanes if self.is_worth_a_lane(-(-num_rows // lanes)) else 1

    def share(self, num_rows: int) -> int:
        """How many of all rows that wait or run one batch may take."""
        lanes = self.lanes(num_rows)
        with_one_ahead = -(-num_rows // (lanes + 1))
        return with_one_ahead if self.is_worth_lying_ready(with_one_ahead) else -(-num_rows // lanes)

    def _minimum_s(self, num_rows: int) -> float:
        # The curve at load and not the forecast: a noisy minute must not change how rows are shared.
        return self._forecast.minimum_s(min(num_rows, self._largest))
