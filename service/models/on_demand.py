"""Models loaded and proved when they are first asked for; the least recently used one leaves for the next.

In: limits, how one model is loaded, and how it is let go.  Out: a model in memory, or the reason why not.

    models in memory + models being loaded ≤ max_models        bytes of those in memory ≤ max_bytes
                                                               (one model by itself may have more)

All who ask for a model that is not there wait for the same load.  A model with requests in flight is let go
only if no idle one is left, and then finishes what it accepted: eviction costs no answer.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.errors import Draining, Overloaded
from service.models.state import ModelState

PATIENCE_S = 10.0  # a model that would be loaded only after this long is refused, with Retry-After


@dataclass(frozen=True, kw_only=True)
class MemoryLimits:
    """How many models may be in memory, and the bytes of their graphs and buffers; None for any."""

    max_models: int | None = None
    max_bytes: int | None = None


class OnDemand:
    """Which models are in memory. Belongs to the event loop.

    `load` tries one and raises nothing: its state says what became of it. `let_go` ends when its memory is
    free. At most `num_loads` are loaded at once.
    """

    def __init__(
        self,
        limits: MemoryLimits,
        load: Callable[[ModelState], Awaitable[None]],
        let_go: Callable[[ModelState], Awaitable[None]],
        num_loads: int,
    ) -> None:
        self._limits = limits
        self._load = load
        self._let_go = let_go
        # Never more than there are places: a load that has its turn then finds a model to let go.
        self._num_turns = min(num_loads, limits.max_models or num_loads)
        self._turns = asyncio.Semaphore(self._num_turns)
        self._in_memory: dict[str, ModelState] = {}  # the least recently used first
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._num_loading = 0
        self._load_s = 0.1  # mean of the last few
        self._expected: Counter[str] = Counter()  # who waits for each model, until they have it in hand
        self._is_closing = False

    def used(self, state: ModelState) -> None:
        """A model that is in memory was asked for, or has just come."""
        self._in_memory[state.name] = self._in_memory.pop(state.name, state)

    def forget(self, state: ModelState) -> None:
        """A client has unloaded a model."""
        self._in_memory.pop(state.name, None)

    async def load(self, state: ModelState) -> None:
        """Wait until a model was tried, together with all others who ask for it; its state says the rest.

        What the caller does with it before it awaits again happens before the model can be let go. Raises
        Overloaded if too many models are to be loaded before, Draining once the server is closing.
        """
        name = state.name
        task = self._loads.get(name)
        if task is None:
            self._check_wait()
            task = self._loads[name] = asyncio.get_running_loop().create_task(self._loaded(state))
            task.add_done_callback(lambda done: self._loads.pop(name))
        self._expected[name] += 1
        try:
            await asyncio.wait([task])
        finally:
            self._expected[name] -= 1
            if not self._expected[name]:
                del self._expected[name]
        if self._is_closing:
            raise Draining("the server is shutting down")

    @asynccontextmanager
    async def place(self, state: ModelState) -> AsyncIterator[None]:
        """Room for one more model within this block, in which it is loaded."""
        async with self._turns:
            self._num_loading += 1
            try:
                await self._make_room(state.num_bytes)
                yield
            finally:
                self._num_loading -= 1
            await self._make_room(0)  # what it really takes was not known before

    def close(self) -> None:
        """Load nothing more; those who wait get Draining."""
        self._is_closing = True
        for task in self._loads.values():
            task.cancel()

    async def _loaded(self, state: ModelState) -> None:
        async with self.place(state):
            begun = time.perf_counter()
            await self._load(state)
            self._load_s += 0.3 * (time.perf_counter() - begun - self._load_s)

    def _check_wait(self) -> None:
        if self._is_closing:
            raise Draining("the server is shutting down")
        wait_s = len(self._loads) * self._load_s / self._num_turns
        if wait_s > PATIENCE_S:
            raise Overloaded(
                f"{len(self._loads)} models are to be loaded before this one, in about {wait_s:.0f} s",
                retry_after_s=math.ceil(wait_s),
            )

    async def _make_room(self, num_bytes: int) -> None:
        while self._is_over(num_bytes):
            leaving = self._next_to_leave()
            if leaving is None:
                await asyncio.sleep(0)  # those who wait for the models have them in hand a turn later
                continue
            del self._in_memory[leaving.name]
            await self._let_go(leaving)

    def _is_over(self, num_bytes: int) -> bool:
        count = len(self._in_memory) + self._num_loading
        if self._limits.max_models is not None and count > self._limits.max_models:
            return True
        if self._limits.max_bytes is None or count < 2 or not self._in_memory:
            return False
        return num_bytes + sum(state.num_bytes for state in self._in_memory.values()) > self._limits.max_bytes

    def _next_to_leave(self) -> ModelState | None:
        """The least recently used of those that are idle, else of all; none that is waited for."""
        free = [state for state in self._in_memory.values() if state.name not in self._expected]
        idle = (state for state in free if state.served is None or state.served.is_idle)
        return next(idle, free[0] if free else None)
