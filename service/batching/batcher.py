"""The batcher: rows wait, a batch runs whenever a lane is free, every row goes back to its caller.

In: jobs of rows, and `run`, an async function from the rows of several jobs to the answers to all of them.
Out: to each caller exactly its own rows' answers, or one clear error.

    a batch    = what waits, by priority and arrival, as many as the forecast finds best (no waiting for
                 more, unless asked); where lanes are short of work in between, one lies ready, and what is
                 over at once runs on the event loop itself (sharing.py)
    a bound    = rows waiting ≤ queue_rows, else Overloaded
    a deadline = a job that would not be answered by then is refused at once

A job whose caller has gone, or whose deadline has passed, is never handed to a lane. Closing refuses new jobs
and finishes accepted ones.
"""

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass

from service.batching.admission import Admission
from service.batching.computing import Computing, Running
from service.batching.execution import BatchRunner, Clock, Observe, Run, RunInline
from service.batching.forecast import Forecast
from service.batching.job import Job, OnEnd, Piece, Tensors, pieces_of
from service.batching.queue import RowQueue
from service.batching.sharing import Sharing
from service.errors import DeadlinePassed, Draining


@dataclass(frozen=True, kw_only=True)
class BatcherConfig:
    """`queue_rows` that may wait, `max_wait_s` that a free lane waits for more of them."""

    queue_rows: int
    max_wait_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_wait_s < math.inf:
            raise ValueError(f"max_wait_s must be a number ≥ 0, got {self.max_wait_s}")


class Batcher:
    """One engine's queue. Belongs to the event loop in which jobs are submitted."""

    def __init__(
        self,
        run: Run,
        config: BatcherConfig,
        forecast: Forecast,
        *,
        run_inline: RunInline | None = None,
        observe: Observe = lambda execution: None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.largest = forecast.buckets[-1]
        if config.queue_rows < self.largest:
            raise ValueError(
                f"queue_rows must hold at least one full batch of {self.largest}, got {config.queue_rows}"
            )
        self.config = config
        self.forecast = forecast
        self._sharing = Sharing(forecast, self.largest)
        self._admission = Admission(forecast, config.queue_rows)
        self._runner = BatchRunner(run, run_inline, forecast, observe, clock, self._fail)
        self._clock = clock
        self._queue = RowQueue()
        self._running: dict[asyncio.Task[None], Running] = {}
        self._computing = Computing()
        self._patience: asyncio.TimerHandle | None = None
        self._is_closing = False
        self._is_closed = False
        self._is_pumping = False

    @property
    def waiting_rows(self) -> int:
        return self._queue.num_rows

    @property
    def running_rows(self) -> int:
        return self._computing.num_rows

    def submit(
        self,
        tensors: Tensors,
        num_rows: int,
        timeout_s: float | None = None,
        *,
        priority: int = 0,
        on_end: OnEnd = lambda job: None,
    ) -> Job:
        """Queue a job of `num_rows` ≥ 1 rows; `on_end` is called once with it, unless its caller cancels.

        Raises Draining, BadRequest, Overloaded, or DeadlinePassed if even an idle engine is too slow.
        """
        if self._is_closing:
            raise Draining("the server is shutting down")
        self.check_space(num_rows)
        now = self._clock()
        before = self._queue.rows_before(priority)
        free_in_s = self._free_in_s(now)
        expected_s = free_in_s + self.forecast.finish_s(before, num_rows)
        if timeout_s is not None:
            begins_in_s = free_in_s + self.forecast.drain_s(before)
            self._admission.check_time(num_rows, timeout_s, begins_in_s=begins_in_s, expected_s=expected_s)
        job = Job(
            num_rows=num_rows,
            num_pieces=-(-num_rows // self.largest),
            on_end=on_end,
            submitted_at=now,
            deadline=None if timeout_s is None else now + timeout_s,
            priority=priority,
            expected_s=expected_s,
        )
        if timeout_s is not None:
            job.timer = asyncio.get_running_loop().call_later(timeout_s, self._expire, job)
        self._queue.put(job, pieces_of(job, tensors, self.largest))
        if not self._is_pumping:
            # Not at once: whatever else has arrived in this turn of the event loop comes along.
            self._is_pumping = True
            asyncio.get_running_loop().call_soon(self._pump)
        return job

    async def ask(
        self, tensors: Tensors, num_rows: int, timeout_s: float | None = None, *, priority: int = 0
    ) -> Job:
        """Submit and wait for the job, which then has its answers; cancelling this wait cancels the job."""
        ended: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        job = self.submit(
            tensors, num_rows, timeout_s, priority=priority, on_end=lambda job: _set(ended, job)
        )
        try:
            await ended
        except asyncio.CancelledError:
            self.cancel(job)
            raise
        if job.error is not None:
            raise job.error
        return job

    def cancel(self, job: Job) -> None:
        """The caller has gone: what has not begun never will. Harmless after the end."""
        if not job.is_settled:
            job.drop()
            self._queue.remove(job)

    async def close(self, timeout_s: float | None = None) -> None:
        """Refuse new jobs, finish accepted ones; those unfinished after `timeout_s` fail with Draining."""
        self._is_closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                self._pump()
                while self._running:
                    await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        self._is_closed = True
        for task in list(self._running):
            task.cancel()
        for piece in list(self._queue):
            self._fail(piece.job, _shut_down())
        if self._running:
            await asyncio.wait(self._running)

    def check_space(self, num_rows: int) -> None:
        """Raise if a job of `num_rows` would be refused for want of space, before it is even read."""
        self._admission.check_space(num_rows, self.waiting_rows, self.running_rows)

    def _pump(self) -> None:
        """Start batches while a lane is free and rows wait."""
        self._is_pumping = False
        while not self._is_closed and self._queue.num_rows:
            num_lanes = self._num_lanes()
            if len(self._computing) >= num_lanes:
                if len(self._computing) > num_lanes or not self._may_go_ahead():
                    return
            elif self._should_wait():
                return
            elif self._computing and not self._sharing.is_worth_a_lane(self.waiting_rows):
                return  # the lane that computes takes it next
            is_short = not self._computing and self._is_short()
            batch = self._next_batch()
            if not batch:
                return
            num_rows = sum(piece.num_rows for piece in batch)
            if is_short:
                self._runner.execute_inline(batch, num_rows)
            else:
                self._begin(batch, num_rows, num_lanes)

    def _is_short(self) -> bool:
        """Whether all that waits is done sooner than handed over."""
        return self._runner.may_run_inline and not self._sharing.is_worth_handing_over(self.waiting_rows)

    def _begin(self, batch: list[Piece], num_rows: int, num_lanes: int) -> None:
        now = self._clock()
        running = Running(batch, num_rows, now + self._free_in_s(now) + self.forecast.batch_s(num_rows))

        def computed() -> None:
            self._computing.release(running)
            self._pump()

        self._computing.add(running)
        execution = self._runner.execute(batch, num_rows, self._runner.begin(batch, num_lanes), computed)
        task = asyncio.get_running_loop().create_task(execution)
        self._running[task] = running
        task.add_done_callback(self._end_of_batch)

    def _end_of_batch(self, task: "asyncio.Task[None]") -> None:
        running = self._running.pop(task)
        self._computing.release(running)
        if task.cancelled():
            for piece in running.batch:
                self._fail(piece.job, _shut_down())
        self._pump()

    def _free_in_s(self, now: float) -> float:
        return self._computing.free_in_s(now, self._num_lanes())

    def _may_go_ahead(self) -> bool:
        """Whether one batch should lie ready for the lane that is free next: never less than its share."""
        share = self._share()
        return (
            self.config.max_wait_s == 0
            and self.waiting_rows >= share
            and self._sharing.is_worth_lying_ready(share)
        )

    def _num_lanes(self) -> int:
        return self._sharing.lanes(self.waiting_rows + self.running_rows)

    def _share(self) -> int:
        return self._sharing.share(self.waiting_rows + self.running_rows)

    def _should_wait(self) -> bool:
        """Whether a lane should be left free in the hope of more rows; if so, a timer pumps again."""
        if self.config.max_wait_s == 0 or self._is_closing or self.waiting_rows >= self.largest:
            return False
        jobs = {piece.job for piece in self._queue}
        until = min(job.submitted_at for job in jobs) + self.config.max_wait_s
        own_s = self.forecast.promise_s(self.forecast.batch_s(self.waiting_rows))
        until = min([until, *(job.deadline - own_s for job in jobs if job.deadline is not None)])
        patience = until - self._clock()
        if patience <= 0:
            return False
        if self._patience is not None:
            self._patience.cancel()
        self._patience = asyncio.get_running_loop().call_later(patience, self._pump)
        return True

    def _next_batch(self) -> list[Piece]:
        """What should run now. Nobody is called back between the choice and the taking."""
        while late := [
            piece.job for piece in self._queue.head(self.largest) if piece.job.is_late(self._clock())
        ]:
            for job in late:  # others move up into the head and may be late too
                self._expire(job)
        head = self._queue.head(min(self.largest, self._share()))
        if not head:
            return []
        now = self._clock()
        now += self._free_in_s(now)
        slacks = [math.inf if piece.job.deadline is None else piece.job.deadline - now for piece in head]
        return self._queue.pop(self.forecast.best_count([piece.num_rows for piece in head], slacks))

    def _expire(self, job: Job) -> None:
        if not job.is_settled:
            waited_s = self._clock() - job.submitted_at
            self.forecast.note_job(job.expected_s, waited_s)  # or only those in time would count
            error = DeadlinePassed(f"the request's timeout passed, {waited_s:.3g} s after it was accepted")
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        self._queue.remove(job)
        job.fail(error)


def _set(future: "asyncio.Future[Job]", job: Job) -> None:
    if not future.done():
        future.set_result(job)


def _shut_down() -> Draining:
    return Draining("the server shut down before the answer was ready")
