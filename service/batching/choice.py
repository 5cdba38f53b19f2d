"""What runs next of the rows that wait: how many lanes, where, whether to wait for more, which pieces.

In: the queue, the batches that run, a forecast.  Out: answers to the batcher's questions, asked anew for each
batch, because each one changes what waits and what runs; then the pieces of the next batch.
"""

import math
from collections.abc import Callable

from service.batching.execution import Clock
from service.batching.forecast import Forecast
from service.batching.job import Job, Piece
from service.batching.queue import RowQueue
from service.batching.running import RunningBatches
from service.batching.sharing import Sharing


class Choice:
    """Decides for one engine; changes nothing but the queue, in `take_batch`."""

    def __init__(
        self,
        queue: RowQueue,
        running: RunningBatches,
        forecast: Forecast,
        *,
        max_wait_s: float,
        clock: Clock,
    ) -> None:
        self._queue = queue
        self._running = running
        self._forecast = forecast
        self._largest = forecast.buckets[-1]
        self._sharing = Sharing(forecast, self._largest)
        self._max_wait_s = max_wait_s
        self._clock = clock

    def num_lanes(self) -> int:
        """How many lanes the rows that wait or run are worth."""
        return self._sharing.lanes(self._queue.num_rows + self._running.num_rows)

    def free_in_s(self, now: float) -> float:
        """Seconds from `now` until a lane is free for the next batch; 0 if one is."""
        return self._running.free_in_s(now, self.num_lanes())

    def is_worth_a_lane(self) -> bool:
        """Whether what waits is worth waking another lane than those that compute."""
        return self._sharing.is_worth_a_lane(self._queue.num_rows)

    def should_run_inline(self) -> bool:
        """Whether all that waits is computed sooner than handed over.

        All of it and not the next batch: judged by the batch, the event loop served a full queue itself,
        eight rows at a time, a third slower than the lanes (decision 22).
        """
        return not self._sharing.is_worth_handing_over(self._queue.num_rows)

    def may_lie_ready(self) -> bool:
        """Whether one batch should lie ready for the lane that is free next: never less than its share.

        Less than a share would leave the rest for another lane's small batch, and both would pay a hand-over.
        A user who asks the batcher to wait for more rows wants the opposite.
        """
        share = self._share()
        return (
            self._max_wait_s == 0
            and self._queue.num_rows >= share
            and self._sharing.is_worth_lying_ready(share)
        )

    def wait_s(self) -> float:
        """Seconds for which a free lane should wait for more rows; 0 or less if it should not.

        Not longer than `max_wait_s` after the oldest arrival, nor so long that a deadline could be missed.
        """
        if self._max_wait_s == 0 or self._queue.num_rows >= self._largest:
            return 0.0
        jobs = {piece.job for piece in self._queue}
        until = min(job.submitted_at for job in jobs) + self._max_wait_s
        own_s = self._forecast.promise_s(self._forecast.batch_s(self._queue.num_rows))
        until = min([until, *(job.deadline - own_s for job in jobs if job.deadline is not None)])
        return until - self._clock()

    def take_batch(self, expire: Callable[[Job], None]) -> list[Piece]:
        """Take out of the queue what should run now; empty if nothing that waits is in time.

        `expire` is called with each job whose turn came too late. No callback runs between the choice and the
        taking: one that submits or cancels would change the queue under the choice, and a batch could exceed
        the largest bucket.
        """
        now = self._clock()
        while late := [piece.job for piece in self._queue.head(self._largest) if piece.job.is_late(now)]:
            for job in late:  # others move up into the head and may be late too
                expire(job)
        # A share and no more, or one lane would compute everything while the others have nothing.
        head = self._queue.head(min(self._largest, self._share()))
        if not head:
            return []
        now += self.free_in_s(now)
        slacks = [math.inf if piece.job.deadline is None else piece.job.deadline - now for piece in head]
        counts = [piece.num_rows for piece in head]
        return self._queue.pop(self._forecast.best_count(counts, slacks, head[0].job.size.cost))

    def _share(self) -> int:
        return self._sharing.share(self._queue.num_rows + self._running.num_rows)
