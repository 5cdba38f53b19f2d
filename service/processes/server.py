"""The HTTP server: uvicorn on a socket of ours, with our way to stop.

In: an app, a bound socket.  Out: runs until SIGTERM or SIGINT, then returns.

    first signal    ready → 503 at once; after the drain delay, new work → 503 and accepted work finishes
    second signal   exit at once
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, cast

import uvicorn

from service.http.connection import KEEP_ALIVE_S, Protocol
from service.models.registry import ModelRegistry
from service.telemetry.standard_error import drain_stderr

LOOK_EVERY_S = 1.0


class Server(uvicorn.Server):
    """uvicorn, except that signals drain first and SIGTERM is not raised again after a clean end."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        models: ModelRegistry,
        drain_delay_s: float,
        announce: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        super().__init__(config)
        self._models = models
        self._drain_delay_s = drain_delay_s
        self._announce = announce
        self._announcement: asyncio.Task[None] | None = None
        self._is_stopping = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announcement = asyncio.get_running_loop().create_task(self._announce())
        self._look_around()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if isinstance(connection, Protocol):
                connection.give_up()
        await asyncio.sleep(0)  # what was just written leaves

    def _look_around(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Protocol):
                connection.look(loop.time())
        loop.call_later(LOOK_EVERY_S, self._look_around)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._is_stopping:
            leave(128 + sig)
        self._is_stopping = True
        asyncio.get_running_loop().call_soon_threadsafe(self._begin_to_stop)

    def stop(self) -> None:
        """As a first signal does."""
        if not self._is_stopping:
            self._is_stopping = True
            self._begin_to_stop()

    def _begin_to_stop(self) -> None:
        self._models.is_draining = True
        asyncio.get_running_loop().call_later(self._drain_delay_s, self._stop)

    def _stop(self) -> None:
        self._models.accepts_work = False
        self.should_exit = True


def uvicorn_config(
    app: Any, connect: Callable[..., asyncio.Protocol], *, shutdown_timeout_s: int
) -> uvicorn.Config:
    """The fast loop and parser, no access log, nothing that costs per request."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=cast(Any, connect),  # uvicorn calls it as it would call a class
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=shutdown_timeout_s,
    )


def bind(host: str, port: int, count: int = 1) -> list[socket.socket]:
    """Sockets that listen on one port, so that a port in use is our own error; raises OSError.

    Several share the port by SO_REUSEPORT, but only after one without it has found the port free.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sockets: list[socket.socket] = []

    def add(place: Any, *, is_shared: bool) -> socket.socket:
        sock = socket.socket(family, kind, protocol)
        sockets.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(place)
        sock.setblocking(False)
        return sock

    try:
        first = add(address, is_shared=False)
        if count > 1:
            address = first.getsockname()
            sockets.remove(first)
            first.close()
            for _ in range(count):
                add(address, is_shared=True)
        for sock in sockets:
            sock.listen(2048)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def leave(code: int) -> None:
    """Exit now, even if a thread is busy with a batch or a bundle that nobody waits for any more."""
    sys.stdout.flush()
    drain_stderr()
    os._exit(code)
