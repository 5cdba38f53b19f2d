"""Engines that wait at a gate, and an event loop whose time jumps: no test of the batcher waits on a clock.

`tests/batching/conftest.py` runs each `async def test_…` of its folder in a FakeTimeLoop. A test fails where
it would wait for ever, and on whatever a callback raises, unless it calls `callbacks_may_raise`.
"""

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np

from service.batching.batcher import Batcher, BatcherConfig
from service.batching.execution import Observe, RunInline
from service.batching.forecast import STEADY_AFTER, Forecast
from service.batching.job import BatchResult, Job, Tensors
from service.errors import ModelFailed

BUCKETS = (1, 2, 4)
LARGEST = BUCKETS[-1]


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """When nothing is left to do, its time jumps to the next timer."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = selectors.DefaultSelector()
        look = selector.select

        def select(timeout: float | None = None) -> Any:
            assert timeout is not None, "no timer is set, so the test would wait for ever"
            self.now += timeout
            return look(0)

        selector.select = select  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


def callbacks_may_raise() -> None:
    """For a test whose callers raise on purpose: what a callback raised does not fail it."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)


class GatedEngine:
    """Doubles rows. Each call waits for `release`; rows that hold a poison value raise.

    Whatever that takes, it reports the `seconds` of its latency curve.
    """

    def __init__(self, *, is_open: bool = False, seconds: Mapping[int, float] | None = None) -> None:
        self.seconds = seconds or {LARGEST: 0.0}
        self.batches: list[list[list[float]]] = []
        self.num_lanes: list[int] = []
        self.begun: asyncio.Queue[int] = asyncio.Queue()
        self._gate = asyncio.Semaphore(0)
        self.is_open = is_open

    async def __call__(self, jobs: Sequence[Tensors], num_lanes: int = 1) -> BatchResult:
        self.batches.append([job["x"].tolist() for job in jobs])
        self.num_lanes.append(num_lanes)
        rows = np.concatenate([job["x"] for job in jobs])
        begun = now()
        self.begun.put_nowait(len(rows))
        if not self.is_open:
            await self._gate.acquire()
        else:
            await asyncio.sleep(0)
        if np.isnan(rows).any():
            raise ModelFailed("poison")
        return BatchResult(answers={"y": rows * 2}, begun=begun, compute_s=self.took(len(rows)))

    def inline(self, jobs: Sequence[Tensors]) -> BatchResult:
        """The same in the event loop's own thread, where no gate may stand."""
        self.batches.append([job["x"].tolist() for job in jobs])
        self.num_lanes.append(0)
        rows = np.concatenate([job["x"] for job in jobs])
        if np.isnan(rows).any():
            raise ModelFailed("poison")
        return BatchResult(answers={"y": rows * 2}, begun=now(), compute_s=self.took(len(rows)))

    def took(self, num_rows: int) -> float:
        """What its curve says of so many rows."""
        return self.seconds[min((bucket for bucket in self.seconds if bucket >= num_rows), default=LARGEST)]

    def release(self, num_batches: int = 1) -> None:
        for _ in range(num_batches):
            self._gate.release()

    @property
    def ran(self) -> list[float]:
        """Every row that was run, in order."""
        return [row for batch in self.batches for job in batch for row in job]

    @property
    def sizes(self) -> list[int]:
        """Rows of each batch."""
        return [sum(map(len, batch)) for batch in self.batches]


class TimedEngine(GatedEngine):
    """Takes exactly as long as its latency curve says; each of its lanes runs one batch at a time.

    `stall_s` passes between its end and its answer.
    """

    def __init__(self, seconds: Mapping[int, float], lanes: int = 1) -> None:
        super().__init__(is_open=True, seconds=seconds)
        self.stall_s = 0.0
        self._free = asyncio.Semaphore(lanes)

    async def __call__(self, jobs: Sequence[Tensors], num_lanes: int = 1) -> BatchResult:
        async with self._free:
            answer = await super().__call__(jobs, num_lanes)
            await asyncio.sleep(answer.seconds + self.stall_s)
            return answer


def outcome(y: np.ndarray) -> BatchResult:
    """What a batch comes to that took no time."""
    return BatchResult(answers={"y": y}, begun=now())


def rows(*values: float) -> Tensors:
    return {"x": np.array(values, np.float64)}


class Asked:
    """A job and the future of its answer; `num_ends` is how often its callback ran, which calls `then`."""

    def __init__(self, batcher: Batcher, values: Sequence[float], **options: Any) -> None:
        self.num_ends = 0
        self.then: Callable[[], object] = lambda: None
        self.future: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        self.job = batcher.submit(rows(*values), len(values), on_end=self._end, **options)

    def _end(self, job: Job) -> None:
        self.num_ends += 1
        if self.num_ends > 1:
            return
        if job.error is not None:
            self.future.set_exception(job.error)
            self.future.exception()  # a test may not care for it
        else:
            assert job.answers is not None
            self.future.set_result(job.answers["y"].tolist())
        self.then()


def submit(batcher: Batcher, *values: float, **options: Any) -> Asked:
    return Asked(batcher, values, **options)


def started(
    engine: Callable[[Sequence[Tensors], int], Awaitable[BatchResult]],
    *,
    run_inline: RunInline | None = None,
    observe: Observe = lambda execution: None,
    seconds: Mapping[int, float] | None = None,
    lanes: int = 1,
    clock: Callable[[], float] | None = None,
    **options: Any,
) -> Batcher:
    """A batcher that knows `seconds` of its engine's batches, by the loop's time; `lanes` run at once."""
    config = BatcherConfig(**{"queue_rows": 16, **options})
    clock = clock or asyncio.get_running_loop().time
    forecast = Forecast(BUCKETS, seconds or {}, lanes)
    for _ in range(STEADY_AFTER if run_inline and seconds else 0):
        forecast.note_batch(1, seconds[1], seconds[1])
    return Batcher(engine, config, forecast, run_inline=run_inline, observe=observe, clock=clock)


async def ys(batcher: Batcher, asked: Asked) -> list[float]:
    """The answer; cancelling this wait cancels the job."""
    try:
        return await asyncio.shield(asked.future)
    except asyncio.CancelledError:
        batcher.cancel(asked.job)
        raise
