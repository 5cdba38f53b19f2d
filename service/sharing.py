"""How the rows that wait are shared among lanes: how many make a batch, and which batches are worth a thread.

In: a forecast, numbers of rows.  Out: a fair share, yes or no.

    share of a lane   = ⌈rows that wait or run / lanes⌉, so that one's rows are dealt while another computes
    with one ahead    = ⌈the same / (lanes + 1)⌉: a batch lies ready for the lane that is free next

A second thread costs the event loop its core: with a net of 20 µs a row on 2 cores and 64 connections, one
lane answered 16,000 requests/s and two 13,000. And a lane that has to ask the event loop for its next batch
stands still meanwhile: with a net of 500 µs a row and 16 connections, 2,660 requests/s, with one ahead 3,070.
"""

from service.forecast import Forecast

WORTH_A_LANE_S = 0.001
LONGEST_AHEAD_S = 0.01  # urgent rows wait for what lies ready


class Sharing:
    """The rows of one engine, as its forecast sees them."""

    def __init__(self, forecast: Forecast, largest: int) -> None:
        self._forecast = forecast
        self._largest = largest

    def is_worth_a_lane(self, num_rows: int) -> bool:
        """Whether so many rows are worth another thread's waking up; unknown if nothing was measured."""
        return not 0 < self._forecast.least_s(min(num_rows, self._largest)) < WORTH_A_LANE_S

    def is_worth_lying_ready(self, num_rows: int) -> bool:
        """Whether a pause before such a batch would count, and urgent rows would not wait long for it."""
        own_s = self._forecast.least_s(min(num_rows, self._largest))
        return own_s >= WORTH_A_LANE_S and self._forecast.batch_s(num_rows) < LONGEST_AHEAD_S

    def share(self, num_rows: int) -> int:
        """A lane's share of all rows that wait or run."""
        if not self.is_worth_a_lane(num_rows):
            return num_rows
        with_one_ahead = -(-num_rows // (self._forecast.lanes + 1))
        if self.is_worth_lying_ready(with_one_ahead):
            return with_one_ahead
        return -(-num_rows // self._forecast.lanes)
