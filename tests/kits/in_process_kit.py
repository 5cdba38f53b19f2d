"""A whole server in a thread of this process, so that a test can hold its engine and look inside.

In: a models folder and flags.  Out: the same parts as `python -m service` runs, on a real socket.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from service.http.connection import Connection
from service.processes.assemble import Service, build_service
from service.processes.server import Server, bind
from service.read_settings import read_settings
from service.telemetry.worker_group import WorkerSlot

Result = TypeVar("Result")
PATIENCE_S = 30


class Inside:
    """A running server; `service` and `server` are its parts, to be touched by `on_loop` only."""

    def __init__(self, models: Path, *flags: str) -> None:
        arguments = ["--models", str(models), "--port", "0", "--request-log", "off", *flags]
        self.settings = read_settings(arguments, {})
        sock = bind(self.settings.host, 0)[0]
        self.port: int = sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.service: Service = build_service(self.settings, WorkerSlot())
        self._loaded = threading.Event()

        async def announce() -> None:
            self.loop = asyncio.get_running_loop()
            await self.service.models.loaded.wait()
            await self.service.front.prepare()
            self._loaded.set()

        self.server = Server(self.service, self.settings, announce)
        self._thread = threading.Thread(target=self.server.run, args=(sock,), name="inside", daemon=True)
        self._thread.start()
        assert self._loaded.wait(PATIENCE_S), "the models were not tried"

    def on_loop(self, function: Callable[[], Result]) -> Result:
        """What `function` returns, called on the event loop."""

        async def call() -> Result:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(PATIENCE_S)

    def has_read_everything(self) -> None:
        """Whatever was sent before this call has been read: requests that came later are answered."""
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as sock:
                sock.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
                assert sock.recv(1000).startswith(b"HTTP/1.1 200")

    def connections(self) -> list[Connection]:
        """Every open connection."""
        return list(self.service.shared.connections)

    def served(self, name: str) -> Any:
        """Who answers for a model."""
        return self.service.models.get(name)

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator["Gate"]:
        """Batches of a model wait at a gate until it is opened, at the latest at the end of the block."""
        lanes, executor = self.served(name)._lanes, self.served(name).batcher._runner
        run_inline, executor._run_inline = executor._run_inline, None  # the gate must not hold the event loop
        gate = Gate(lanes._run)
        lanes._run = gate
        try:
            yield gate
        finally:
            gate.open()
            executor._run_inline = run_inline

    def close(self) -> None:
        """Stop as a signal would."""
        self.loop.call_soon_threadsafe(self.server.stop)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the server did not stop"
        self.service.close()


class Gate:
    """Stands before an engine; `at_gate` is released once for each batch that has come to it."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self._is_open = threading.Event()
        self._arrived = threading.Semaphore(0)
        self.num_batches = 0

    def __call__(self, *arguments: Any) -> Any:
        self.num_batches += 1
        self._arrived.release()
        assert self._is_open.wait(PATIENCE_S), "the gate was not opened"
        return self._run(*arguments)

    def wait_for_batch(self) -> None:
        """A batch has been handed to the engine."""
        assert self._arrived.acquire(timeout=PATIENCE_S), "no batch came"

    def open(self) -> None:
        """Let every batch through."""
        self._is_open.set()


@contextlib.contextmanager
def inside(models: Path, *flags: str) -> Iterator[Inside]:
    """A server that has tried every model."""
    running = Inside(models, *flags)
    try:
        yield running
    finally:
        running.close()
