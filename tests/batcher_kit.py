"""Engines that are gates: they answer when a test opens them, so nothing waits on a clock."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from service.batcher import Batcher, BatcherConfig
from service.errors import ModelFailed
from service.job import Job, Tensors

LARGEST = 4


class GatedEngine:
    """Doubles rows. Each call waits for `release`; rows that hold a poison value raise."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.batches: list[list[list[float]]] = []
        self.begun: asyncio.Queue[int] = asyncio.Queue()
        self._gate = asyncio.Semaphore(0)
        self.is_open = is_open

    async def __call__(self, jobs: Sequence[Tensors]) -> Tensors:
        self.batches.append([job["x"].tolist() for job in jobs])
        rows = np.concatenate([job["x"] for job in jobs])
        self.begun.put_nowait(len(rows))
        if not self.is_open:
            await self._gate.acquire()
        else:
            await asyncio.sleep(0)
        if np.isnan(rows).any():
            raise ModelFailed("poison")
        return {"y": rows * 2}

    def release(self, num_batches: int = 1) -> None:
        for _ in range(num_batches):
            self._gate.release()

    @property
    def ran(self) -> list[float]:
        """Every row that was run, in order."""
        return [row for batch in self.batches for job in batch for row in job]


def rows(*values: float) -> Tensors:
    return {"x": np.array(values, np.float64)}


def submit(batcher: Batcher, *values: float, timeout_s: float | None = None) -> Job:
    return batcher.submit(rows(*values), len(values), timeout_s)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


def started(engine: Callable[[Sequence[Tensors]], Awaitable[Tensors]], **options: Any) -> Batcher:
    observe = options.pop("observe", lambda execution: None)
    config = BatcherConfig(**{"largest": LARGEST, "queue_rows": 16, **options})
    batcher = Batcher(engine, config, observe=observe)
    batcher.start()
    return batcher


async def ys(batcher: Batcher, job: Job) -> list[float]:
    return (await batcher.answers(job))["y"].tolist()
