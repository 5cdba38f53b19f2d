"""Lanes: threads that run batches, so that the event loop never waits for the engine.

In: the rows of several jobs.  Out: an awaitable `Outcome`; every lane runs one batch at a time.

A lane takes the next batch that was handed over by itself, without asking the event loop.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from service.errors import ModelFailed
from service.job import Outcome, Tensors

RunInLane = Callable[[int, Sequence[Tensors]], Outcome]
_Work = tuple[Sequence[Tensors], "asyncio.Future[Outcome]"]


class Lanes:
    """`num_lanes` threads over `run(lane, jobs)`. Belongs to the event loop that awaits it."""

    def __init__(self, run: RunInLane, num_lanes: int, name: str) -> None:
        self._run = run
        self._num_lanes = num_lanes
        self._loop = asyncio.get_running_loop()
        self._handed: SimpleQueue[_Work | None] = SimpleQueue()
        for lane in range(num_lanes):
            threading.Thread(target=self._work, args=(lane,), name=f"{name}-{lane}", daemon=True).start()

    def __call__(self, jobs: Sequence[Tensors]) -> "asyncio.Future[Outcome]":
        """Run the rows of `jobs` in the next free lane; the future raises what the engine raises."""
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._handed.put((jobs, future))
        return future

    def stop(self) -> None:
        """Let the threads end after what they were handed."""
        for _ in range(self._num_lanes):
            self._handed.put(None)

    def _work(self, lane: int) -> None:
        while (work := self._handed.get()) is not None:
            jobs, future = work
            error: Exception | None = None
            outcome: Outcome | None = None
            try:
                outcome = self._run(lane, jobs)
            except BaseException as raised:
                # What a future cannot carry, or what would end the lane, is an error like any other.
                if isinstance(raised, Exception) and not isinstance(raised, StopIteration):
                    error = raised
                else:
                    error = ModelFailed(f"the engine gave up: {raised!r}")
            try:
                self._loop.call_soon_threadsafe(_settle, future, outcome, error)
            except RuntimeError:  # the loop closed under a batch that nobody waits for
                return
            del work, jobs, future, outcome, error


def _settle(future: "asyncio.Future[Outcome]", outcome: Outcome | None, error: Exception | None) -> None:
    if future.done():
        return
    if outcome is not None:
        future.set_result(outcome)
    else:
        future.set_exception(error or RuntimeError("the engine answered nothing"))
