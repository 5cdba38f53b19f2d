"""The batcher: rows wait, a batch runs whenever a lane is free, every row goes back to its caller.

In: jobs of rows, and `run`, an async function from the rows of several jobs to the answers to all of them.
Out: to each caller exactly its own rows' answers, or one clear error.

    a batch    = what waits, by priority and arrival, as many as the forecast finds best (no waiting for
                 more, unless asked)
    a bound    = rows waiting ≤ queue_rows, else Overloaded
    a deadline = a job that would not be answered by then is refused at once

A batch that raises is run again job by job, so that one poisoned job fails alone. A job whose caller has
gone, or whose deadline has passed, is never run. Closing refuses new jobs and finishes accepted ones.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from service.errors import BadRequest, DeadlinePassed, Draining, ModelFailed, Overloaded
from service.forecast import Forecast
from service.job import Job, OnEnd, Outcome, Piece, Tensors, pieces_of
from service.queue import RowQueue


@dataclass(slots=True, eq=False, kw_only=True)
class Execution:
    """One call of `run`: how many rows of how many jobs, and what it came to, or None if it raised."""

    num_rows: int
    num_jobs: int
    outcome: Outcome | None


Run = Callable[[Sequence[Tensors]], Awaitable[Outcome]]
Clock = Callable[[], float]
Observe = Callable[[Execution], None]

_log = logging.getLogger("foldserve")


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
        self._run = run
        self._observe = observe
        self._clock = clock
        self._queue = RowQueue()
        self._running: set[asyncio.Task[None]] = set()
        self._patience: asyncio.TimerHandle | None = None
        self._is_closing = False
        self._is_pumping = False
        self.running_rows = 0

    @property
    def waiting_rows(self) -> int:
        return self._queue.num_rows

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
        expected_s = self.forecast.answer_s(self._queue.rows_before(priority), self.running_rows, num_rows)
        if timeout_s is not None:
            self._check_time(timeout_s, expected_s, num_rows)
        now = self._clock()
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
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        for piece in list(self._queue):
            self._fail(piece.job, _shut_down())

    def check_space(self, num_rows: int) -> None:
        limit = self.config.queue_rows
        if num_rows > limit:
            raise BadRequest(f"{num_rows} rows in one request, at most {limit} are allowed")
        if (waiting := self.waiting_rows) + num_rows > limit:
            drain_s = self.forecast.drain_s(waiting + self.running_rows)
            raise Overloaded(
                f"{waiting} rows are waiting and {num_rows} more do not fit in a queue of {limit}",
                retry_after_s=max(1, math.ceil(drain_s)),
            )

    def _check_time(self, timeout_s: float, expected_s: float, num_rows: int) -> None:
        if timeout_s < (alone_s := self.forecast.batch_s(num_rows)):
            raise DeadlinePassed(
                f"the request's timeout passed before it began: it allows {timeout_s:.3g} s, "
                f"its rows alone take {alone_s:.3g} s"
            )
        promise_s = self.forecast.promise_s(expected_s)
        if (self.waiting_rows or self.running_rows) and promise_s > timeout_s:
            raise Overloaded(
                f"the answer would take {promise_s:.3g} s, the request's timeout is {timeout_s:.3g} s",
                retry_after_s=max(1, math.ceil(promise_s - timeout_s)),
            )

    def _pump(self) -> None:
        """Start batches while a lane is free and rows wait."""
        self._is_pumping = False
        while self._queue.num_rows and len(self._running) < self.forecast.lanes:
            if self._should_wait():
                return
            batch = self._next_batch()
            if not batch:
                return
            rows = sum(piece.num_rows for piece in batch)
            self.running_rows += rows
            task = asyncio.get_running_loop().create_task(self._execute(batch, rows))
            self._running.add(task)
            task.add_done_callback(self._end_of_batch)

    def _end_of_batch(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._pump()

    def _should_wait(self) -> bool:
        """Whether a lane should be left free in the hope of more rows; if so, a timer pumps again."""
        if self.config.max_wait_s == 0 or self._is_closing or self.waiting_rows >= self.largest:
            return False
        oldest = self._queue.oldest()
        assert oldest is not None
        patience = oldest.job.submitted_at + self.config.max_wait_s - self._clock()
        if patience <= 0:
            return False
        if self._patience is not None:
            self._patience.cancel()
        self._patience = asyncio.get_running_loop().call_later(patience, self._pump)
        return True

    def _next_batch(self) -> list[Piece]:
        now = self._clock()
        sizes: list[int] = []
        slacks: list[float] = []
        expired: list[Job] = []
        # A fair share for each lane, so that they overlap: the rows of one are dealt while another computes.
        share = -(-(self.waiting_rows + self.running_rows) // self.forecast.lanes)
        space = self.largest
        for piece in self._queue:
            deadline = piece.job.deadline
            if deadline is not None and deadline <= now:
                expired.append(piece.job)
                continue
            space -= piece.num_rows
            if space < 0 or (sizes and self.largest - space > share):
                break
            sizes.append(piece.num_rows)
            slacks.append(math.inf if deadline is None else deadline - now)
        for job in expired:
            self._expire(job)
        return self._queue.pop(self.forecast.best_count(sizes, slacks)) if sizes else []

    async def _execute(self, batch: Sequence[Piece], num_rows: int) -> None:
        """Run a batch and deal its answers; if it raises, run its jobs one by one."""
        try:
            error = await self._attempt(batch, num_rows)
            if error is None:
                return
            if len(batch) == 1:
                self._fail(batch[0].job, error)
                return
            for piece in batch:
                if not piece.job.is_settled and (own := await self._attempt([piece], piece.num_rows)):
                    self._fail(piece.job, own)
        except asyncio.CancelledError:
            for piece in batch:
                self._fail(piece.job, _shut_down())
            raise
        except Exception as lost:
            _log.exception("event=batch_lost rows=%d", num_rows)
            for piece in batch:
                self._fail(piece.job, ModelFailed(f"the batch was lost: {lost}"))
        finally:
            self.running_rows -= num_rows

    async def _attempt(self, batch: Sequence[Piece], num_rows: int) -> Exception | None:
        """Run and deal; what the engine raised, if it did."""
        outcome: Outcome | None = None
        error: Exception | None = None
        handed_over = self._clock()
        try:
            outcome = await self._run([piece.tensors for piece in batch])
            for name, array in outcome.answers.items():
                if len(array) != num_rows:
                    raise ModelFailed(f"output '{name}' has {len(array)} rows for {num_rows}")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            error = ModelFailed("the engine gave up on the batch")
        except Exception as raised:
            error = raised
        if error is None and outcome is not None:
            self.forecast.note_batch(num_rows, outcome.seconds, self._clock() - handed_over)
        self._note(Execution(num_rows=num_rows, num_jobs=len(batch), outcome=None if error else outcome))
        if error is None and outcome is not None:
            self._deal(batch, outcome)
        return error

    def _deal(self, batch: Sequence[Piece], outcome: Outcome) -> None:
        """Give each piece the answers to its own rows."""
        start = 0
        now = self._clock()
        outputs = list(outcome.answers.items())
        for piece in batch:
            stop = start + piece.num_rows
            job = piece.job
            if piece.index == 0:
                job.queue_s = max(0.0, outcome.begun - job.submitted_at)
            job.compute_s += outcome.seconds
            if not job.is_settled and piece.index == job.num_pieces - 1:
                self.forecast.note_job(job.expected_s, now - job.submitted_at)
            job.deliver(piece.index, {name: array[start:stop] for name, array in outputs})
            start = stop

    def _note(self, execution: Execution) -> None:
        try:
            self._observe(execution)
        except Exception:
            _log.exception("event=observe_failed")

    def _expire(self, job: Job) -> None:
        if not job.is_settled:
            waited_s = self._clock() - job.submitted_at
            error = DeadlinePassed(f"the request's timeout passed, {waited_s:.3g} s after it was accepted")
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        job.fail(error)
        self._queue.remove(job)


def _set(future: "asyncio.Future[Job]", job: Job) -> None:
    if not future.done():
        future.set_result(job)


def _shut_down() -> Draining:
    return Draining("the server shut down before the answer was ready")
