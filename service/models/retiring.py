"""Versions and models that leave the memory: each once what was sent to it is answered.

In: a `Served` that no request reaches any more.  Out: nothing; its memory goes back to the system.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from service.models.background import in_thread
from service.models.memory import return_freed_memory
from service.models.served import Served

TRIM_S = 2.0


class Retiring:
    """Those that are on their way out.  Belongs to the event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._trimming: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many have begun to leave and are still there."""
        return len(self._tasks)

    def add(self, served: Served) -> None:
        """Let a version go once every request that was sent to it is answered."""
        self._begin(_retired(served))

    def trim_soon(self) -> None:
        """Return freed memory, now and then: it takes longer than small models take to load."""
        if self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(TRIM_S, self._trim)

    async def finish(self) -> None:
        """Wait until all that have begun to leave have left."""
        await asyncio.gather(*self._tasks)

    def _trim(self) -> None:
        self._trimming = None
        self._begin(in_thread(return_freed_memory))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(task := asyncio.get_running_loop().create_task(work))
        task.add_done_callback(self._tasks.discard)


async def _retired(served: Served) -> None:
    await served.retire()
    await in_thread(return_freed_memory)
