"""Lanes of many models over a few threads, so that a thousand models take no more threads than one.

In: the rows of several jobs of one model.  Out: a future `BatchResult`, as `Lanes` gives.

A model still runs no more batches at once than it has lanes, for each lane has buffers of its own.  Batches
of all models run in the order in which they were handed over, but those that wait for their model's lane.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue

from service.batching.job import BatchResult, Tensors
from service.batching.lanes import RunInLane, Work, run_batch


class LaneThreads:
    """`num_threads` threads that run the batches of every `SharedLanes` made with them."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._turns: SimpleQueue[tuple[SharedLanes, int, Work] | None] = SimpleQueue()
        for number in range(num_threads):
            threading.Thread(target=self._run, name=f"engines-{number}", daemon=True).start()

    def put(self, lanes: "SharedLanes", lane: int, work: Work) -> None:
        """Run `work` in the next free thread, with the buffers of `lane`."""
        self._turns.put((lanes, lane, work))

    def stop(self) -> None:
        """Let every thread end after what was put before."""
        for _ in range(self._num_threads):
            self._turns.put(None)

    def _run(self) -> None:
        while (turn := self._turns.get()) is not None:
            lanes, lane, work = turn
            lanes.work(lane, work)
            del turn, lanes, work  # a thread may sleep for hours: it must not keep a model alive meanwhile


class SharedLanes:
    """`num_lanes` lanes of one model over `run(lane, rows of each job)`, which threads of all models run."""

    def __init__(self, run: RunInLane, num_lanes: int, threads: LaneThreads) -> None:
        self._run = run
        self._num_lanes = num_lanes
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._handed: deque[Work] = deque()
        self._idle = list(range(num_lanes))

    def __call__(self, jobs: Sequence[Tensors], at_most: int | None = None) -> "asyncio.Future[BatchResult]":
        """Run `jobs` in the next free of `at_most` lanes; the future raises what the engine does."""
        future: asyncio.Future[BatchResult] = self._loop.create_future()
        work = jobs, future
        with self._lock:
            num_taken = self._num_lanes - len(self._idle)
            if num_taken >= min(at_most or self._num_lanes, self._num_lanes):
                self._handed.append(work)
                return future
            lane = self._idle.pop()
        self._threads.put(self, lane, work)
        return future

    def run_inline(self, jobs: Sequence[Tensors]) -> BatchResult:
        """Run the rows of `jobs` in this thread, with lane 0's buffers; only while no lane computes."""
        return self._run(0, jobs)

    def stop(self) -> None:
        """Nothing to end: the threads are those of all models."""

    def work(self, lane: int, work: Work) -> None:
        """Run one batch in this thread, then pass the lane on; another model's batch may come in between."""
        run_batch(self._run, lane, work, self._loop)
        with self._lock:
            if not self._handed:
                self._idle.append(lane)
                return
            following = self._handed.popleft()
        self._threads.put(self, lane, following)
