"""Processes and memory that decoding may use at once: first come, first served.

In: how many bytes a request needs.  Out: a `Lease` on a process and on these bytes, when it is its turn.

Strictly in order, so that small requests cannot keep a large one waiting for ever. A caller that is cancelled
while it waits, because its client hung up, leaves the queue; its work is never begun.
"""

import asyncio
from collections import deque


class Capacity:
    """`num_processes` and `num_bytes`, lent to requests; belongs to one event loop."""

    def __init__(self, num_processes: int, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._free_processes = num_processes
        self._free_bytes = num_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def lease(self, num_bytes: int) -> "Lease":
        """Wait for a process and `num_bytes` (at most all of them)."""
        assert num_bytes <= self.num_bytes
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((num_bytes, turn))
        self._advance()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._advance()  # what waits after it may fit
            else:
                self.give_back(1, num_bytes)  # its turn had come in the same instant
            raise
        return Lease(self, num_bytes)

    def give_back(self, num_processes: int, num_bytes: int) -> None:
        """What a lease no longer needs."""
        self._free_processes += num_processes
        self._free_bytes += num_bytes
        self._advance()

    def _advance(self) -> None:
        while self._waiting:
            num_bytes, turn = self._waiting[0]
            if not turn.cancelled():
                if self._free_processes == 0 or num_bytes > self._free_bytes:
                    return
                self._free_processes -= 1
                self._free_bytes -= num_bytes
                turn.set_result(None)
            self._waiting.popleft()


class Lease:
    """One process, until `keep_bytes` is called, and some bytes, until `end`."""

    def __init__(self, capacity: Capacity, num_bytes: int) -> None:
        self._capacity = capacity
        self._num_processes = 1
        self._num_bytes = num_bytes

    def keep_bytes(self, num_bytes: int) -> None:
        """Decoding is over: give back the process, and all bytes but these."""
        freed = self._num_bytes - num_bytes
        self._num_bytes = num_bytes
        num_processes, self._num_processes = self._num_processes, 0
        self._capacity.give_back(num_processes, freed)

    def end(self) -> None:
        """Give back what is left."""
        self.keep_bytes(0)
