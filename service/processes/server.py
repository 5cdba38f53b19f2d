"""The HTTP server: our connections on a socket, a clock, and an orderly end.

In: a service, a bound socket.  Out: runs until SIGTERM or SIGINT, then returns.

    first signal      ready → 503 at once, every answer says `connection: close`
    drain delay       later, no new connection and no new work; idle connections close, accepted work finishes
    shutdown timeout  later, what is not answered gets its error; what has not left then is aborted
    second signal     exit at once
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, cast

import uvloop

from service.http.connection import Connection
from service.processes.assemble import Service
from service.processes.tls import tls_context
from service.settings import Settings
from service.telemetry.standard_error import drain_stderr

TICK_S = 1.0
BACKLOG = 2048
LAST_WORDS_S = 0.5  # of the shutdown timeout, for the errors of what was not answered to leave
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_log = logging.getLogger("foldserve")


class Server:
    """Serves on one socket; `announce` runs as a task once connections are accepted."""

    def __init__(
        self, service: Service, settings: Settings, announce: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._service = service
        self._settings = settings
        self._announce = announce
        self._is_stopping = False
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, sock: socket.socket) -> None:
        """Serve until a signal comes or `stop` is called; raises what the start of the service raises."""
        loop = self._loop = uvloop.new_event_loop()
        try:
            with self._signals():
                loop.run_until_complete(self._serve(sock))
        finally:
            # Not asyncio.run: it waits for every thread, and one may be busy with abandoned work.
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def stop(self) -> None:
        """As a first signal does; called on the event loop."""
        if not self._is_stopping:
            self._is_stopping = True
            self._begin_to_stop()

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await self._service.front.start()
        self._tick()
        # asyncio asks for a Protocol, and uses its methods alone.
        connect = cast(Callable[[], asyncio.Protocol], lambda: Connection(self._service.shared))
        tls = tls_context(self._settings)
        listening = await loop.create_server(connect, sock=sock, backlog=BACKLOG, ssl=tls)
        announcement = loop.create_task(self._announce())
        await self._stopped.wait()
        listening.close()
        await self._end_connections()
        announcement.cancel()
        await self._service.decoder.close()
        await self._service.heavy.close()
        await self._service.front.close()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._service.shared.tick(loop.time())
        loop.call_later(TICK_S, self._tick)

    async def _end_connections(self) -> None:
        shared = self._service.shared
        last_words_s = min(LAST_WORDS_S, self._settings.shutdown_timeout_s / 4)
        for connection in list(shared.connections):
            connection.close_when_answered()
        await self._all_ended(self._settings.shutdown_timeout_s - last_words_s)
        for connection in list(shared.connections):
            connection.fail_pending()
        await self._all_ended(last_words_s)
        for connection in list(shared.connections):
            connection.abort()
        for task in list(shared.tasks):
            task.cancel()
        await self._all_ended(last_words_s)

    async def _all_ended(self, timeout_s: float) -> None:
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while self._service.shared.connections or self._service.shared.tasks:
            if asyncio.get_running_loop().time() >= deadline_s:
                return
            await asyncio.sleep(0.02)

    def _begin_to_stop(self) -> None:
        self._service.models.is_draining = self._service.shared.is_draining = True
        asyncio.get_running_loop().call_later(self._settings.drain_delay_s, self._stop)

    def _stop(self) -> None:
        self._service.models.accepts_work = False
        self._stopped.set()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # a test's server, stopped by `stop`
            return
        # Not loop.add_signal_handler: a second signal must end the process even if the event loop is busy.
        former = {sig: signal.signal(sig, self._on_signal) for sig in _SIGNALS}
        try:
            yield
        finally:
            for sig, handler in former.items():
                signal.signal(sig, handler)

    def _on_signal(self, sig: int, frame: FrameType | None) -> None:
        if self._is_stopping:
            leave(128 + sig)
        self._is_stopping = True
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._begin_to_stop)


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
            sock.listen(BACKLOG)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def leave(code: int) -> None:
    """Exit now, even if a thread is busy with a batch or a bundle that no client waits for any more."""
    sys.stdout.flush()
    drain_stderr()
    os._exit(code)
