"""Isolated processes that are kept from one request to the next.

In: the module that they run.  Out: one for each request, for as long as it may take.

A process starts when it is first needed, which takes about 0.3 s, and ends when it has been idle for a while.
Why no library does this: docs/decisions/0028-hostile-work-elsewhere.md.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from service.isolation.process import IsolatedProcess

IDLE_S = 60.0
END_TIMEOUT_S = 1.0  # a killed process may still be in the kernel
THREADS = 64  # at most: one for each process that works or ends


class ProcessPool:
    """As many processes as are borrowed at once; how many that may be is what `Capacity` decides."""

    def __init__(self, module: str, timeout_s: float, *, idle_s: float = IDLE_S) -> None:
        self.timeout_s = timeout_s
        self._module = module
        self._idle_s = idle_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="isolated")
        self._idle: list[IsolatedProcess] = []  # the longest idle first
        self._borrowed: set[IsolatedProcess] = set()
        self._ending: set[asyncio.Task[None]] = set()  # killed, and not seen off yet
        self._is_closed = False
        self._sweep: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[IsolatedProcess]:
        """One for a request, killed if it still works when the block ends; TimeoutError at the deadline."""
        process = self._idle.pop() if self._idle else await self._start()
        self._borrowed.add(process)
        try:
            async with asyncio.timeout(self.timeout_s):
                yield process
        finally:
            self._borrowed.discard(process)
            if process.is_usable and not self._is_closed:
                self._keep(process)
            else:
                self._end(process)

    async def close(self) -> None:
        """End all of them, borrowed or not, and see them off."""
        if self._sweep is not None:
            self._sweep.cancel()
        self._is_closed = True
        for process in [*self._idle, *self._borrowed]:
            self._end(process)
        if self._ending:
            await asyncio.wait(self._ending, timeout=END_TIMEOUT_S)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _start(self) -> IsolatedProcess:
        return await IsolatedProcess.start(self._module, self._threads)

    def _end(self, process: IsolatedProcess) -> None:
        process.kill()
        ending = asyncio.get_running_loop().create_task(process.wait())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _keep(self, process: IsolatedProcess) -> None:
        loop = asyncio.get_running_loop()
        process.idle_since_s = loop.time()
        self._idle.append(process)
        if self._sweep is None:
            self._sweep = loop.call_later(self._idle_s, self._end_idle)

    def _end_idle(self) -> None:
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].idle_since_s + self._idle_s <= loop.time() + 1:
            self._end(self._idle.pop(0))
        self._sweep = loop.call_later(self._idle_s, self._end_idle) if self._idle else None
