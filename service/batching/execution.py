"""One batch, from its pieces to everybody's answers.

In: pieces that run together, and `run`, which makes answers of rows.  Out: every job is settled.

    answers[start:stop] → the piece whose rows stood there

A batch that raises is run again piece by piece, so that one poisoned job fails alone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from service.batching.forecast import Forecast
from service.batching.job import BatchResult, Job, Piece, Tensors
from service.errors import ModelFailed


@dataclass(slots=True, eq=False, kw_only=True)
class Execution:
    """One call of `run`: how many rows of how many jobs, and what it came to, or None if it raised."""

    num_rows: int
    num_jobs: int
    outcome: BatchResult | None


Run = Callable[[Sequence[Tensors], int], Awaitable[BatchResult]]  # hands over when called, not when awaited
RunInline = Callable[[Sequence[Tensors]], BatchResult]
Begun = tuple["asyncio.Future[BatchResult]", float]  # what a batch will come to, and when it was handed over
Clock = Callable[[], float]
Observe = Callable[[Execution], None]
Fail = Callable[[Job, Exception], None]

_log = logging.getLogger("foldserve")


class BatchRunner:
    """Runs batches for a batcher, which lends it `fail` to settle a job that waits with other pieces."""

    def __init__(
        self,
        run: Run,
        run_inline: RunInline | None,
        forecast: Forecast,
        observe: Observe,
        clock: Clock,
        fail: Fail,
    ) -> None:
        self._run = run
        self._run_inline = run_inline
        self._forecast = forecast
        self._observe = observe
        self._clock = clock
        self._fail = fail

    @property
    def may_run_inline(self) -> bool:
        """Whether `execute_inline` may be called while no lane computes."""
        return self._run_inline is not None

    def execute_inline(self, batch: Sequence[Piece], num_rows: int) -> None:
        """Run a batch in this thread and deal; if it raises, its pieces one by one."""
        assert self._run_inline is not None
        begun_at = self._clock()
        try:
            outcome = _checked(self._run_inline([piece.tensors for piece in batch]), num_rows)
        except Exception as error:
            self._note(Execution(num_rows=num_rows, num_jobs=len(batch), outcome=None))
            if len(batch) == 1:
                self._fail(batch[0].job, error)
                return
            for piece in batch:
                if not piece.job.is_settled:
                    self.execute_inline([piece], piece.num_rows)
            return
        try:
            self._learn(batch, num_rows, outcome, begun_at)
            self._deal(batch, outcome)
        except Exception as lost:
            self._lose(batch, num_rows, lost)

    def begin(self, batch: Sequence[Piece], num_lanes: int) -> Begun:
        """Hand a batch over to one of `num_lanes` lanes; whatever that raises, the future raises."""
        now = self._clock()
        try:
            return asyncio.ensure_future(self._run([piece.tensors for piece in batch], num_lanes)), now
        except Exception as error:
            refused: asyncio.Future[BatchResult] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused, now

    async def execute(
        self,
        batch: Sequence[Piece],
        num_rows: int,
        begun: Begun,
        computed: Callable[[], None],
    ) -> None:
        """Deal what a batch that has begun comes to; if it raises, run its pieces one by one.

        `computed` is called between the two, so that the lane computes again while answers are dealt.
        """
        try:
            error = await self._attempt(batch, num_rows, begun, computed)
            if error is not None and len(batch) == 1:
                self._fail(batch[0].job, error)
            elif error is not None:
                for piece in batch:
                    if piece.job.is_settled:
                        continue
                    if own := await self._attempt([piece], piece.num_rows, self.begin([piece], 1)):
                        self._fail(piece.job, own)
        except Exception as lost:
            self._lose(batch, num_rows, lost)

    async def _attempt(
        self,
        batch: Sequence[Piece],
        num_rows: int,
        begun: Begun,
        computed: Callable[[], None] = lambda: None,
    ) -> Exception | None:
        """Await and deal; what the engine raised, if it did."""
        future, handed_over = begun
        try:
            outcome = _checked(await future, num_rows)
        except (asyncio.CancelledError, Exception) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._note(Execution(num_rows=num_rows, num_jobs=len(batch), outcome=None))
            return error if isinstance(error, Exception) else ModelFailed("the engine gave up on the batch")
        self._learn(batch, num_rows, outcome, handed_over)
        computed()
        self._deal(batch, outcome)
        return None

    def _learn(self, batch: Sequence[Piece], num_rows: int, outcome: BatchResult, handed_over: float) -> None:
        self._forecast.note_batch(num_rows, outcome.seconds, self._clock() - max(handed_over, outcome.begun))
        self._note(Execution(num_rows=num_rows, num_jobs=len(batch), outcome=outcome))

    def _lose(self, batch: Sequence[Piece], num_rows: int, lost: Exception) -> None:
        _log.exception("event=batch_lost rows=%d", num_rows)
        for piece in batch:
            self._fail(piece.job, ModelFailed(f"the batch was lost: {lost}"))

    def _deal(self, batch: Sequence[Piece], outcome: BatchResult) -> None:
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
                self._forecast.note_job(job.expected_s, now - job.submitted_at)
            job.deliver(piece.index, {name: array[start:stop] for name, array in outputs})
            start = stop

    def _note(self, execution: Execution) -> None:
        try:
            self._observe(execution)
        except Exception:
            _log.exception("event=observe_failed")


def _checked(outcome: BatchResult, num_rows: int) -> BatchResult:
    """The outcome, if it answers every row."""
    for name, array in outcome.answers.items():
        if len(array) != num_rows:
            raise ModelFailed(f"output '{name}' has {len(array)} rows for {num_rows}")
    return outcome
