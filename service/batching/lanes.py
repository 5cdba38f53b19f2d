"""Lanes: threads that run batches, so that the event loop never waits for the engine.

In: the rows of several jobs.  Out: an awaitable `BatchResult`; every lane runs one batch at a time.

A lane takes the next batch that was handed over by itself, without asking the event loop.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from service.batching.job import BatchResult, Tensors
from service.errors import ModelFailed

RunInLane = Callable[[int, Sequence[Tensors]], BatchResult]
_Work = tuple[Sequence[Tensors], "asyncio.Future[BatchResult]"]


class Lanes:
    """`num_lanes` threads over `run(lane, jobs)`. Belongs to the event loop that awaits it."""

    def __init__(self, run: RunInLane, num_lanes: int, name: str) -> None:
        self._run = run
        self._num_lanes = num_lanes
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._handed: deque[_Work | None] = deque()
        self._idle: list[int] = []  # the newest last: its core is still awake, and its caches warm
        self._boxes: list[SimpleQueue[_Work | None]] = [SimpleQueue() for _ in range(num_lanes)]
        for lane in range(num_lanes):
            threading.Thread(target=self._work, args=(lane,), name=f"{name}-{lane}", daemon=True).start()

    def __call__(self, jobs: Sequence[Tensors], at_most: int | None = None) -> "asyncio.Future[BatchResult]":
        """Run the rows of `jobs` in the next free lane; the future raises what the engine raises.

        It waits for a lane that computes rather than wake more than `at_most`, if that is said.
        """
        future: asyncio.Future[BatchResult] = self._loop.create_future()
        self._hand((jobs, future), at_most or self._num_lanes)
        return future

    def run_inline(self, jobs: Sequence[Tensors]) -> BatchResult:
        """Run the rows of `jobs` in the calling thread; only while no lane computes."""
        return self._run(0, jobs)

    def stop(self) -> None:
        """Let the threads end after what they were handed."""
        for _ in range(self._num_lanes):
            self._hand(None, self._num_lanes)

    def _hand(self, work: "_Work | None", at_most: int) -> None:
        with self._lock:
            num_awake = self._num_lanes - len(self._idle)
            if not self._idle or num_awake >= at_most:
                self._handed.append(work)
                return
            lane = self._idle.pop()
        self._boxes[lane].put(work)

    def _next(self, lane: int) -> "_Work | None":
        """What was handed over first, or the next that will be."""
        with self._lock:
            if self._handed:
                return self._handed.popleft()
            self._idle.append(lane)
        return self._boxes[lane].get()

    def _work(self, lane: int) -> None:
        while (work := self._next(lane)) is not None:
            jobs, future = work
            error: Exception | None = None
            outcome: BatchResult | None = None
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


def _settle(
    future: "asyncio.Future[BatchResult]", outcome: BatchResult | None, error: Exception | None
) -> None:
    if future.done():
        return
    if outcome is not None:
        future.set_result(outcome)
    else:
        future.set_exception(error or RuntimeError("the engine answered nothing"))
