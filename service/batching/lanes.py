"""Lanes: threads that run batches, so that the event loop never waits for the engine.

In: the rows of several jobs.  Out: a future `BatchResult`; every lane runs one batch at a time.

A lane that has ended takes the next batch that was handed over by itself, without asking the event loop.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from service.batching.job import BatchResult, Tensors
from service.errors import ModelFailed

RunInLane = Callable[[int, Sequence[Tensors]], BatchResult]
Work = tuple[Sequence[Tensors], "asyncio.Future[BatchResult]"]


class Lanes:
    """`num_lanes` threads over `run(lane, rows of each job)`. Belongs to the event loop that makes it."""

    def __init__(self, run: RunInLane, num_lanes: int, name: str) -> None:
        self._run = run
        self._num_lanes = num_lanes
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._handed: deque[Work | None] = deque()
        self._idle: list[int] = []  # the newest last: its core is still awake, and its caches warm
        # A box for each lane: with one queue for all, the operating system would choose which lane wakes.
        self._boxes: list[SimpleQueue[Work | None]] = [SimpleQueue() for _ in range(num_lanes)]
        for lane in range(num_lanes):
            threading.Thread(target=self._work, args=(lane,), name=f"{name}-{lane}", daemon=True).start()

    def __call__(self, jobs: Sequence[Tensors], at_most: int | None = None) -> "asyncio.Future[BatchResult]":
        """Run the rows of `jobs` in the next free lane; the future raises what the engine raises.

        With `at_most` it waits for a lane that computes rather than wake one more than so many.
        """
        future: asyncio.Future[BatchResult] = self._loop.create_future()
        self._hand_over((jobs, future), at_most or self._num_lanes)
        return future

    def run_inline(self, jobs: Sequence[Tensors]) -> BatchResult:
        """Run the rows of `jobs` in this thread, with lane 0's buffers; only while no lane computes."""
        return self._run(0, jobs)

    def stop(self) -> None:
        """Let every thread end after the batches that were handed over before."""
        for _ in range(self._num_lanes):
            self._hand_over(None, self._num_lanes)

    def _hand_over(self, work: "Work | None", at_most: int) -> None:
        with self._lock:
            num_awake = self._num_lanes - len(self._idle)
            if not self._idle or num_awake >= at_most:
                self._handed.append(work)
                return
            lane = self._idle.pop()
        self._boxes[lane].put(work)

    def _next(self, lane: int) -> "Work | None":
        """The work that was handed over first, or the next that will be; None: the thread should end."""
        with self._lock:  # looking and lying down are one step, or work that comes in between would be missed
            if self._handed:
                return self._handed.popleft()
            self._idle.append(lane)
        return self._boxes[lane].get()

    def _work(self, lane: int) -> None:
        while (work := self._next(lane)) is not None:
            if not run_batch(self._run, lane, work, self._loop):
                return
            # A lane may sleep for hours: it must not keep the rows of its last batch alive meanwhile.
            del work


def run_batch(run: RunInLane, lane: int, work: Work, loop: asyncio.AbstractEventLoop) -> bool:
    """Run one batch in this thread and settle its future on `loop`; False if that loop is closed."""
    jobs, future = work
    error: Exception | None = None
    result: BatchResult | None = None
    try:
        result = run(lane, jobs)
    except BaseException as raised:
        # A future cannot carry StopIteration, and anything but an Exception would end the lane: both
        # become errors of the batch, so that its callers are answered and the lane lives.
        if isinstance(raised, Exception) and not isinstance(raised, StopIteration):
            error = raised
        else:
            error = ModelFailed(f"the engine gave up: {raised!r}")
    try:
        loop.call_soon_threadsafe(_settle, future, result, error)
    except RuntimeError:  # the loop closed while the batch ran, and with it everyone who waited
        return False
    return True


def _settle(
    future: "asyncio.Future[BatchResult]", result: BatchResult | None, error: Exception | None
) -> None:
    if future.done():  # cancelled, because the batcher closed
        return
    if result is not None:
        future.set_result(result)
    else:
        future.set_exception(error or RuntimeError("the engine answered nothing"))
