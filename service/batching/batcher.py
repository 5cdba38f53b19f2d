"""The batcher: rows wait, a batch runs whenever a lane is free, every row's answer goes back to its caller.

In: jobs of rows, and `run`, which hands the rows of several jobs to a lane and returns their result to come.
Out: to each caller exactly its own rows' answers, or one clear error.

    a batch    = what waits, by priority and arrival, as many as the forecast finds best (no waiting for
                 more, unless asked); where a lane would be idle between two batches, one is prepared, and
                 what is over at once runs inline, on the event loop itself (choice.py, sharing.py)
    a bound    = rows waiting of short jobs ≤ queue_rows, and of all when a long one joins, else Overloaded
    a deadline = a job that would not be answered by then is refused at once

A job whose caller has gone, or whose deadline has passed, is never handed to a lane. Closing refuses new jobs
and finishes accepted ones.
"""

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass
from functools import partial

from service.batching.admission import Admission
from service.batching.choice import Choice
from service.batching.execution import BatchRunner, Clock, HandedOver, Observe, Run, RunInline
from service.batching.forecast import Forecast
from service.batching.job import ONE_SIZE, BatchResult, Job, OnEnd, Piece, RowSize, Tensors, pieces_of
from service.batching.queue import RowQueue
from service.batching.running import RunningBatch, RunningBatches
from service.errors import DeadlinePassed, Draining


@dataclass(frozen=True, kw_only=True)
class BatcherConfig:
    """`queue_rows` that may wait, of short jobs and of all; `max_wait_s` that a free lane waits for more."""

    queue_rows: int
    max_wait_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_wait_s < math.inf:
            raise ValueError(f"max_wait_s must be a number ≥ 0, got {self.max_wait_s}")


class Batcher:
    """One engine's queue. Belongs to the event loop in which jobs are submitted.

    `run`, `run_inline` and `observe` are those of `BatchRunner`; `clock` gives seconds. Raises ValueError if
    the queue is smaller than the largest bucket.
    """

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
        self._admission = Admission(forecast, config.queue_rows)
        self._runner = BatchRunner(run, run_inline, forecast, observe, clock)
        self._clock = clock
        self._queue = RowQueue()
        self._running = RunningBatches()  # of these a lane is taken
        self._choice = Choice(self._queue, self._running, forecast, max_wait_s=config.max_wait_s, clock=clock)
        # These have answers to deal, perhaps after their lane was released.
        self._tasks: dict[asyncio.Task[None], tuple[RunningBatch, HandedOver]] = {}
        self._wait_timer: asyncio.TimerHandle | None = None
        self._is_closing = False
        self._is_closed = False
        self._is_pump_due = False

    @property
    def waiting_rows(self) -> int:
        """Rows that are not handed over yet."""
        return self._queue.num_rows

    @property
    def running_rows(self) -> int:
        """Rows that a lane computes, or that lie ready for it."""
        return self._running.num_rows

    def submit(
        self,
        tensors: Tensors,
        num_rows: int,
        timeout_s: float | None = None,
        *,
        priority: int = 0,
        on_end: OnEnd = lambda job: None,
        size: RowSize = ONE_SIZE,
    ) -> Job:
        """Queue a job of `num_rows` ≥ 1 rows; `on_end` is called once with it, unless its caller cancels.

        Rows share batches only with rows of the same `size`.

        Raises Draining, BadRequest, Overloaded, or DeadlinePassed if even an idle engine is too slow.
        """
        if self._is_closing:
            raise Draining("the server is shutting down")
        largest = min(self.largest, size.max_rows)
        is_long = num_rows > largest
        self._check_space(num_rows, is_long=is_long)
        now = self._clock()
        before = self._queue.work_before(priority, is_long=is_long)
        free_in_s = self._choice.free_in_s(now)
        expected_s = free_in_s + self.forecast.finish_s(before, num_rows, size.cost)
        if timeout_s is not None:
            begins_in_s = free_in_s + self.forecast.drain_s(before)
            self._admission.check_time(
                num_rows, timeout_s, begins_in_s=begins_in_s, expected_s=expected_s, cost=size.cost
            )
        job = Job(
            num_rows=num_rows,
            num_pieces=-(-num_rows // largest),
            on_end=on_end,
            submitted_at=now,
            deadline=None if timeout_s is None else now + timeout_s,
            priority=priority,
            expected_s=expected_s,
            size=size,
        )
        if timeout_s is not None:
            job.timer = asyncio.get_running_loop().call_later(timeout_s, self._expire, job)
        self._queue.put(job, pieces_of(job, tensors, largest))
        if not self._is_pump_due:
            # Not at once: everything else that arrives in this turn of the event loop joins the batch.
            # Otherwise the first of 64 requests would run alone and the other 63 would wait for it.
            self._is_pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)
        return job

    async def ask(
        self,
        tensors: Tensors,
        num_rows: int,
        timeout_s: float | None = None,
        *,
        priority: int = 0,
        size: RowSize = ONE_SIZE,
    ) -> Job:
        """Submit and wait for the job, which then has its answers; cancelling this wait cancels the job.

        Raises what `submit` raises, and the job's own error.
        """
        ended: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        job = self.submit(
            tensors, num_rows, timeout_s, priority=priority, on_end=partial(_set, ended), size=size
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
        """The caller has gone: pieces that have not begun never will. Harmless after the end."""
        job.drop()

    async def close(self, timeout_s: float | None = None) -> None:
        """Refuse new jobs, finish accepted ones; those unfinished after `timeout_s` fail with Draining."""
        self._is_closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                self._pump()
                while self._tasks:  # each one that ends pumps, and so may add another
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self._is_closed = True
        for task in list(self._tasks):
            task.cancel()
        for piece in list(self._queue):
            piece.job.fail(_shut_down())
        if self._tasks:
            await asyncio.wait(self._tasks)

    def check_space(self) -> None:
        """Raise if even a job of one row would be refused for want of space, before it is read."""
        self._check_space(1, is_long=False)

    def _check_space(self, num_rows: int, *, is_long: bool) -> None:
        # Long jobs take no space from short ones: one client with many rows would lock all others out.
        waiting = self._queue.num_rows if is_long else self._queue.num_short_rows
        self._admission.check_space(num_rows, waiting, self._queue.num_rows + self.running_rows)

    def _pump(self) -> None:
        """Start batches while a lane is free and rows wait; called whenever either may have become true.

        Which branch runs is decided anew for each batch, because each changes what waits and what runs.
        """
        self._is_pump_due = False
        while not self._is_closed and self._queue.num_rows:
            num_lanes = self._choice.num_lanes()
            if len(self._running) >= num_lanes:
                # Every lane is taken. One batch more may lie ready, so that a lane need not wait for the
                # event loop between two batches: without it both were idle a third of the time (decision
                # 22). Never two: rows that lie ready can no longer be overtaken, nor join a fuller batch.
                if len(self._running) > num_lanes or not self._choice.may_lie_ready():
                    return
            elif self._should_wait():
                return  # the user asked for fuller batches (max_wait_ms); a timer pumps again
            elif self._running and not self._choice.is_worth_a_lane():
                # A lane is free and another computes: waking the second would take the event loop's core for
                # longer than these rows need (decision 11). The lane that computes takes them next.
                return
            # Inline only where no lane computes: it borrows a lane's buffers, and the event loop would fight
            # the lanes for their cores (decision 22).
            is_inline = not self._running and self._runner.may_run_inline and self._choice.should_run_inline()
            batch = self._choice.take_batch(self._expire)
            if not batch:
                return  # all that waited had passed its deadline
            num_rows = sum(piece.num_rows for piece in batch)
            if is_inline:
                self._runner.execute_inline(batch, num_rows)
            else:
                self._hand_over(batch, num_rows, num_lanes)

    def _hand_over(self, pieces: list[Piece], num_rows: int, num_lanes: int) -> None:
        now = self._clock()
        seconds = self.forecast.batch_s(num_rows, pieces[0].job.size.cost)
        ends_at = now + self._choice.free_in_s(now) + seconds
        batch = RunningBatch(pieces, num_rows, ends_at)
        self._running.add(batch)
        handed = self._runner.hand_over(pieces, num_lanes)
        task = asyncio.get_running_loop().create_task(self._finish(batch, handed))
        self._tasks[task] = batch, handed
        task.add_done_callback(self._forget)

    async def _finish(self, batch: RunningBatch, handed: HandedOver) -> None:
        """Settle the jobs of a batch that is handed over, whatever becomes of it."""
        try:
            result = await self._runner.result_of(batch.pieces, batch.num_rows, handed)
            if isinstance(result, BatchResult):
                # The next batch before these answers: dealing them takes the event loop as long as a lane
                # takes to compute, and the lane would be idle meanwhile (decision 11).
                self._running.release(batch)
                self._pump()
                self._runner.deal(batch.pieces, result)
            else:
                # Its lane stays taken: the pieces run there, one by one.
                await self._runner.retry_alone(batch.pieces, result)
        except Exception as lost:
            self._runner.fail(batch.pieces, batch.num_rows, lost)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        batch, handed = self._tasks.pop(task)
        self._running.release(batch)
        if task.cancelled():  # by `close`; a task that was cancelled before it began did none of this itself
            handed.abandon()
            for piece in batch.pieces:
                piece.job.fail(_shut_down())
        self._pump()

    def _should_wait(self) -> bool:
        """Whether a lane should be left free in the hope of more rows; if so, a timer pumps again."""
        if self._is_closing or (wait_s := self._choice.wait_s()) <= 0:
            return False
        if self._wait_timer is not None:
            self._wait_timer.cancel()
        self._wait_timer = asyncio.get_running_loop().call_later(wait_s, self._pump)
        return True

    def _expire(self, job: Job) -> None:
        """Fail a job whose deadline has passed, by its timer or because its turn came first."""
        if not job.is_settled:
            waited_s = self._clock() - job.submitted_at
            # Without this only jobs in time would teach the forecast, and it would promise ever more.
            self.forecast.note_job(job.expected_s, waited_s)
            job.fail(DeadlinePassed(f"the request's timeout passed, {waited_s:.3g} s after it was accepted"))


def _set(future: "asyncio.Future[Job]", job: Job) -> None:
    if not future.done():  # the one who asked may have been cancelled in this turn of the event loop
        future.set_result(job)


def _shut_down() -> Draining:
    return Draining("the server shut down before the answer was ready")
