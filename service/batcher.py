"""The queue: rows wait, a batch runs whenever the engine is free, every row goes back to its caller.

In: jobs of rows, and `run`, an async function from the rows of several jobs to the answers to all of them.
Out: to each caller exactly its own rows' answers, or one clear error.

    a batch   = what waits, in order of arrival, up to the largest bucket (no waiting for more, unless asked)
    a bound   = rows waiting ≤ queue_rows, else Overloaded
    retry     = (1 + ⌈rows waiting / largest bucket⌉) · a batch's usual seconds

A batch that raises is run again job by job, so that one poisoned job fails alone. A job whose caller has
gone, or whose deadline has passed, is never run. Closing refuses new jobs and finishes accepted ones.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from service.errors import BadRequest, DeadlinePassed, Draining, ModelFailed, Overloaded
from service.job import Job, Piece, Tensors, pieces_of

Run = Callable[[Sequence[Tensors]], Awaitable[Tensors]]
Clock = Callable[[], float]

_SMOOTHING = 0.2
_log = logging.getLogger("foldserve")


@dataclass(frozen=True, kw_only=True)
class BatcherConfig:
    """`largest` rows in a batch, `queue_rows` waiting, `max_wait_s` that a free engine waits for more."""

    largest: int
    queue_rows: int
    max_wait_s: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.largest <= self.queue_rows:
            raise ValueError(
                f"queue_rows must hold at least one full batch of {self.largest}, got {self.queue_rows}"
            )
        if not 0 <= self.max_wait_s < math.inf:
            raise ValueError(f"max_wait_s must be a number ≥ 0, got {self.max_wait_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One call of `run`: how many rows of how many jobs, how long, and whether it raised."""

    num_rows: int
    num_jobs: int
    seconds: float
    has_failed: bool


class Batcher:
    """One engine's queue. Belongs to the event loop that calls `start`."""

    def __init__(
        self,
        run: Run,
        config: BatcherConfig,
        *,
        observe: Callable[[Execution], None] = lambda execution: None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.config = config
        self._run = run
        self._observe = observe
        self._clock = clock
        self._waiting: deque[Piece] = deque()
        self._arrived = asyncio.Event()
        self._is_closing = False
        self._worker: asyncio.Task[None] | None = None
        self._batch_s = 0.0
        self.waiting_rows = 0
        self.running_rows = 0

    def start(self) -> None:
        """Begin to run batches."""
        assert self._worker is None, "a batcher starts once"
        self._worker = asyncio.get_running_loop().create_task(self._work())

    def submit(self, tensors: Tensors, num_rows: int, timeout_s: float | None = None) -> Job:
        """Queue a job of `num_rows` ≥ 1 rows; raises Overloaded, Draining or BadRequest at once."""
        if self._is_closing:
            raise Draining("the server is shutting down")
        if num_rows > self.config.queue_rows:
            raise BadRequest(f"{num_rows} rows in one request, at most {self.config.queue_rows} are allowed")
        if self.waiting_rows + num_rows > self.config.queue_rows:
            raise Overloaded(
                f"{self.waiting_rows} rows are waiting and {num_rows} more do not fit in a queue of "
                f"{self.config.queue_rows}",
                retry_after_s=self.retry_after_s,
            )
        loop = asyncio.get_running_loop()
        now = self._clock()
        job = Job(
            num_rows=num_rows,
            num_pieces=-(-num_rows // self.config.largest),
            future=loop.create_future(),
            submitted_at=now,
            deadline=None if timeout_s is None else now + timeout_s,
        )
        if timeout_s is not None:
            job.timer = loop.call_later(timeout_s, self._expire, job)
        self._waiting.extend(pieces_of(job, tensors, self.config.largest))
        self.waiting_rows += num_rows
        self._arrived.set()
        return job

    async def answers(self, job: Job) -> Tensors:
        """Wait for a job; cancelling this wait takes the job's waiting rows out of the queue."""
        try:
            return await job.future
        except asyncio.CancelledError:
            self.cancel(job)
            raise

    def cancel(self, job: Job) -> None:
        """The caller has gone: what has not begun never will. Harmless after the end."""
        if not job.is_settled or job.future.cancelled():
            self._take_back(job)
            job.drop()

    async def close(self, timeout_s: float | None = None) -> None:
        """Refuse new jobs, finish accepted ones; those unfinished after `timeout_s` fail with Draining."""
        self._is_closing = True
        self._arrived.set()
        if self._worker is not None:
            done, _ = await asyncio.wait({self._worker}, timeout=timeout_s)
            if not done:
                self._worker.cancel()
                await asyncio.wait({self._worker})

    @property
    def retry_after_s(self) -> int:
        """Whole seconds after which the rows that wait now will have been run."""
        batches = 1 + math.ceil(self.waiting_rows / self.config.largest)
        return max(1, math.ceil(batches * self._batch_s))

    async def _work(self) -> None:
        batch: list[Piece] = []
        try:
            while await self._has_rows():
                batch = self._next_batch()
                try:
                    if batch:
                        await self._execute(batch)
                except Exception as error:
                    _log.exception("event=batch_lost rows=%d", sum(piece.num_rows for piece in batch))
                    for piece in batch:
                        piece.job.fail(ModelFailed(f"the batch was lost: {error}"))
                batch = []
        finally:
            self._is_closing = True
            for piece in (*batch, *self._waiting):
                piece.job.fail(Draining("the server shut down before the answer was ready"))
            self._waiting.clear()
            self.waiting_rows = 0

    async def _has_rows(self) -> bool:
        """Wait until a batch should run; False when closing and nothing is left."""
        while True:
            while not self._waiting:
                if self._is_closing:
                    return False
                self._arrived.clear()
                await self._arrived.wait()
            patience = self._waiting[0].job.submitted_at + self.config.max_wait_s - self._clock()
            if patience <= 0 or self._is_closing or self.waiting_rows >= self.config.largest:
                return True
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._arrived.wait()

    def _next_batch(self) -> list[Piece]:
        now = self._clock()
        batch: list[Piece] = []
        space = self.config.largest
        while self._waiting and self._waiting[0].num_rows <= space:
            piece = self._waiting.popleft()
            self.waiting_rows -= piece.num_rows
            job = piece.job
            if job.deadline is not None and job.deadline <= now:
                self._expire(job)
            if job.is_settled:
                continue
            if piece.index == 0:
                job.queue_s = now - job.submitted_at
            space -= piece.num_rows
            batch.append(piece)
        return batch

    async def _execute(self, batch: Sequence[Piece]) -> None:
        """Run a batch and deal its answers; if it raises, run its jobs one by one."""
        begun = self._clock()
        num_rows = sum(piece.num_rows for piece in batch)
        error: Exception | None = None
        self.running_rows = num_rows
        try:
            answers = await self._run([piece.tensors for piece in batch])
            if wrong := [name for name, array in answers.items() if len(array) != num_rows]:
                raise ModelFailed(f"output '{wrong[0]}' has {len(answers[wrong[0]])} rows for {num_rows}")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            error = ModelFailed("the engine gave up on the batch")
        except Exception as raised:
            error = raised
        self.running_rows = 0
        seconds = self._clock() - begun
        self._note(
            Execution(num_rows=num_rows, num_jobs=len(batch), seconds=seconds, has_failed=error is not None)
        )
        for piece in batch:
            piece.job.compute_s += seconds
        if error is None:
            _deal(batch, answers)
        elif len(batch) == 1:
            batch[0].job.fail(error)
        else:
            for piece in batch:
                if not piece.job.is_settled:
                    await self._execute([piece])

    def _note(self, execution: Execution) -> None:
        if not execution.has_failed:
            weight = _SMOOTHING if self._batch_s else 1.0
            self._batch_s += weight * (execution.seconds - self._batch_s)
        try:
            self._observe(execution)
        except Exception:
            _log.exception("event=observe_failed")

    def _expire(self, job: Job) -> None:
        if not job.is_settled:
            self._take_back(job)
            waited_s = self._clock() - job.submitted_at
            job.fail(DeadlinePassed(f"the request's timeout passed, {waited_s:.3g} s after it was accepted"))

    def _take_back(self, job: Job) -> None:
        """Remove a job's rows that still wait."""
        kept = deque(piece for piece in self._waiting if piece.job is not job)
        if len(kept) < len(self._waiting):
            self._waiting = kept
            self.waiting_rows = sum(piece.num_rows for piece in kept)


def _deal(batch: Sequence[Piece], answers: Tensors) -> None:
    """Give each piece the answers to its own rows."""
    start = 0
    outputs = list(answers.items())
    for piece in batch:
        stop = start + piece.num_rows
        piece.job.deliver(piece.index, {name: array[start:stop] for name, array in outputs})
        start = stop
