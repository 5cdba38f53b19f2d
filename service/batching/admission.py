"""Who may wait: a bound on the rows, and a promise that a deadline can be held against.

In: what waits and runs, a new job's rows and timeout.  Out: nothing, or the error that refuses the job.

    Overloaded 503       not now: the queue is full, or the answer would come after the job's own deadline;
                         Retry-After says when the rows before it will have been run
    DeadlinePassed 504   never: its rows alone take longer than its timeout
"""

import math
from dataclasses import dataclass

from service.batching.forecast import Forecast
from service.errors import BadRequest, DeadlinePassed, Overloaded


@dataclass(frozen=True)
class Admission:
    """Decides for one queue of at most `queue_rows`, by one engine's forecast, which jobs may wait."""

    forecast: Forecast
    queue_rows: int

    def check_space(self, num_rows: int, waiting: int, before: int) -> None:
        """Raise BadRequest if the rows can never fit, Overloaded if not beside those `waiting`.

        `before` are all rows that wait or run: those of long jobs take no space from a short one, but time.
        """
        if num_rows > self.queue_rows:
            raise BadRequest(f"{num_rows} rows in one request, at most {self.queue_rows} are allowed")
        if waiting + num_rows > self.queue_rows:
            raise Overloaded(
                f"{waiting} rows are waiting and {num_rows} more do not fit in a queue of {self.queue_rows}",
                retry_after_s=_whole_seconds(self.forecast.drain_s(before)),
            )

    def check_time(
        self, num_rows: int, timeout_s: float, *, begins_in_s: float, expected_s: float, cost: float = 1.0
    ) -> None:
        """Raise DeadlinePassed or Overloaded if the answer, `expected_s` from now, cannot come in time.

        A job that can begin at once (`begins_in_s` is 0) is only held against its minimum: if an engine that
        was slow for a while refused those too, nothing would run and its recovery would never be noticed.
        """
        minimum_s = self.forecast.minimum_s(num_rows, cost)
        if timeout_s < minimum_s:
            raise DeadlinePassed(
                f"the request's timeout passed before it began: it allows {timeout_s:.3g} s, "
                f"its rows alone take {minimum_s:.3g} s"
            )
        promise_s = self.forecast.promise_s(expected_s)
        if begins_in_s > 0 and promise_s > timeout_s:
            caution, batch_s = self.forecast.caution, self.forecast.batch_s(self.forecast.best_bucket)
            raise Overloaded(
                f"the answer would take {promise_s:.3g} s, the request's timeout is {timeout_s:.3g} s",
                # The earlier of two times: when no rows are before it any more; or when the promise, even if
                # caution has grown by half, is short enough for a job that arrives in the middle of a batch.
                retry_after_s=_whole_seconds(
                    min(begins_in_s * caution, expected_s + batch_s - timeout_s / (1.5 * caution))
                ),
            )


def _whole_seconds(seconds: float) -> int:
    """Rounded up, at least 1: the Retry-After header holds whole seconds."""
    return max(1, math.ceil(seconds))
