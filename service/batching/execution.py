"""One batch, from its pieces to the answers of every job in it.

In: pieces that run together, and `run`, which makes answers of rows.  Out: every job is settled.

    answers[start:stop] → the piece whose rows stood there

A batch that raises is run again piece by piece, so that one poisoned job fails alone (docs/decisions/0007).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from service.batching.forecast import Forecast
from service.batching.job import BatchResult, Piece, Tensors
from service.errors import ModelFailed


@dataclass(slots=True, eq=False, kw_only=True)
class Execution:
    """One call of `run`: how many rows of how many jobs, and its result, or None if it raised."""

    num_rows: int
    num_jobs: int
    result: BatchResult | None


@dataclass(slots=True, eq=False)
class HandedOver:
    """A batch on its way through the lanes: its result to come, and when it was handed over."""

    result: "asyncio.Future[BatchResult]"
    at: float

    def abandon(self) -> None:
        """No task awaits the result any more: cancel it, or take its error, which asyncio would log."""
        if not self.result.cancel() and not self.result.cancelled():
            self.result.exception()


Run = Callable[[Sequence[Tensors], int], Awaitable[BatchResult]]  # hands over when called, not when awaited
RunInline = Callable[[Sequence[Tensors]], BatchResult]
Clock = Callable[[], float]
Observe = Callable[[Execution], None]

_log = logging.getLogger("foldserve")


class BatchRunner:
    """Runs batches, in lanes or inline, and deals their answers to the jobs.

    `run(rows of each job, lanes to use)` hands a batch over to a lane; `run_inline(rows of each job)` runs it
    in the calling thread, None where that is not possible. `observe` is called after each of these calls.
    """

    def __init__(
        self,
        run: Run,
        run_inline: RunInline | None,
        forecast: Forecast,
        observe: Observe,
        clock: Clock,
    ) -> None:
        self._run = run
        self._run_inline = run_inline
        self._forecast = forecast
        self._observe = observe
        self._clock = clock

    @property
    def may_run_inline(self) -> bool:
        """Whether `execute_inline` may be called while no lane computes."""
        return self._run_inline is not None

    def execute_inline(self, batch: Sequence[Piece], num_rows: int) -> None:
        """Run a batch in this thread and settle its jobs; if it raises, its pieces one by one."""
        assert self._run_inline is not None
        begun_at = self._clock()
        try:
            result = _checked(self._run_inline([piece.tensors for piece in batch]), num_rows)
        except Exception as error:
            self._note(Execution(num_rows=num_rows, num_jobs=len(batch), result=None))
            if len(batch) == 1:
                batch[0].job.fail(error)
                return
            for piece in batch:
                if not piece.job.is_settled:  # its caller may have hung up, or another piece of it failed
                    self.execute_inline([piece], piece.num_rows)
            return
        try:
            self._learn(batch, num_rows, result, begun_at)
            self.deal(batch, result)
        except Exception as lost:
            self.fail(batch, num_rows, lost)

    def hand_over(self, batch: Sequence[Piece], num_lanes: int) -> HandedOver:
        """Hand a batch over to one of `num_lanes` lanes; whatever that raises, the result raises."""
        now = self._clock()
        try:
            result = asyncio.ensure_future(self._run([piece.tensors for piece in batch], num_lanes))
            return HandedOver(result, now)
        except Exception as error:
            refused: asyncio.Future[BatchResult] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return HandedOver(refused, now)

    async def result_of(
        self, batch: Sequence[Piece], num_rows: int, handed: HandedOver
    ) -> BatchResult | Exception:
        """Await what the engine makes of a batch: its result, checked and learnt from, or what it raised."""
        try:
            result = _checked(await handed.result, num_rows)
        except (asyncio.CancelledError, Exception) as error:
            # Either this task is being cancelled, because the batcher closes, or the future was, by a lane
            # that gave up. Only the second is the batch's own error.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._note(Execution(num_rows=num_rows, num_jobs=len(batch), result=None))
            return error if isinstance(error, Exception) else ModelFailed("the engine gave up on the batch")
        self._learn(batch, num_rows, result, handed.at)
        return result

    async def retry_alone(self, batch: Sequence[Piece], error: Exception) -> None:
        """Run each piece of a batch that raised `error` by itself and settle its job; a lone piece fails.

        One after another in a single lane: which one is poisoned is not known, and it may be slow to fail.
        """
        if len(batch) == 1:
            batch[0].job.fail(error)
            return
        for piece in batch:
            if piece.job.is_settled:  # its caller may have hung up, or another piece of it failed
                continue
            alone = [piece]
            result = await self.result_of(alone, piece.num_rows, self.hand_over(alone, 1))
            if isinstance(result, BatchResult):
                self.deal(alone, result)
            else:
                piece.job.fail(result)

    def deal(self, batch: Sequence[Piece], result: BatchResult) -> None:
        """Give each piece the answers to its own rows; the last piece of a job settles it."""
        start = 0
        now = self._clock()
        outputs = list(result.answers.items())
        for piece in batch:
            stop = start + piece.num_rows
            job = piece.job
            if piece.index == 0:
                job.queue_s = max(0.0, result.begun - job.submitted_at)
            job.compute_s += result.seconds
            if not job.is_settled and piece.index == job.num_pieces - 1:
                self._forecast.note_job(job.expected_s, now - job.submitted_at)
            job.deliver(piece.index, {name: array[start:stop] for name, array in outputs})
            start = stop

    def fail(self, batch: Sequence[Piece], num_rows: int, lost: Exception) -> None:
        """Settle every job of a batch that broke in our own code, so that no caller waits for ever."""
        _log.exception("event=batch_lost rows=%d", num_rows)
        for piece in batch:
            piece.job.fail(ModelFailed(f"the batch was lost: {lost}"))

    def _learn(self, batch: Sequence[Piece], num_rows: int, result: BatchResult, handed_at: float) -> None:
        # A batch that lay ready began long after it was handed over: that wait is not the lane's overhead.
        turnaround_s = self._clock() - max(handed_at, result.begun)
        self._forecast.note_batch(num_rows, result.seconds, turnaround_s, batch[0].job.size.cost)
        self._note(Execution(num_rows=num_rows, num_jobs=len(batch), result=result))

    def _note(self, execution: Execution) -> None:
        try:
            self._observe(execution)
        except Exception:  # metrics that break must not cost answers
            _log.exception("event=observe_failed")


def _checked(result: BatchResult, num_rows: int) -> BatchResult:
    """The result, if it answers every row; otherwise rows would be dealt to the wrong callers."""
    for name, array in result.answers.items():
        if len(array) != num_rows:
            raise ModelFailed(f"output '{name}' has {len(array)} rows for {num_rows}")
    return result
