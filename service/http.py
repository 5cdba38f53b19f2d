"""HTTP/1.1 on a socket: uvicorn's httptools protocol, with three habits changed.

In: bytes from a client.  Out: ASGI calls, or exchanges of the hot route; bytes back.

    a POST to …/infer becomes an `Exchange`, answered without ASGI: no scope, no task, one write
    an answer that is whole leaves in one write, head and body together (uvicorn makes two)
    HTTP that cannot be parsed gets its 400 in JSON, as every error does; an endless head, 431; a head or body
    that stops arriving, 408
"""

import asyncio
from typing import Any, cast

from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.errors import Draining
from service.exchange import Endpoint, Exchange
from service.outbox import Outbox
from service.reply import error_body

ONE_WRITE_UP_TO = 256 * 1024
MAX_HEAD = 1024 * 1024
KEEP_ALIVE_S = 75  # as nginx: longer than the pools of clients keep a connection that they do not use
HEAD_WITHIN_S = 20
BODY_PAUSE_S = 60


class OneWriteCycle(RequestResponseCycle):
    """Keeps the head of a response until its body begins, as ASGI asks of a server."""

    _head: Any = None

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start" and not self.response_started:
            self._head = message
            return
        head, self._head = self._head, None
        if head is None:
            await super().send(message)
        elif not self._is_whole(message):
            await super().send(head)
            await super().send(message)
        else:
            if self.flow.write_paused and not self.disconnected:
                await self.flow.drain()
            if not self.disconnected:
                self._send_whole(head, message)

    def _is_whole(self, message: Any) -> bool:
        return (
            message["type"] == "http.response.body"
            and not message.get("more_body")
            and len(message.get("body", b"")) <= ONE_WRITE_UP_TO
        )

    def _send_whole(self, head: Any, message: Any) -> None:
        body = message.get("body", b"")
        parts = [STATUS_LINE[head["status"]]]
        has_length = False
        for name, value in (*self.default_headers, *head["headers"]):
            if b"\n" in value or b"\r" in value or b"\n" in name or b"\r" in name:
                raise RuntimeError("a header holds a line break")
            if name == b"content-length":
                has_length = True
                if int(value) != len(body) and self.scope["method"] != "HEAD":
                    raise RuntimeError("Content-Length is not the body's length")
            elif name == b"connection" and b"close" in value.lower():
                self.keep_alive = False
                continue
            parts += (name, b": ", value, b"\r\n")
        if not has_length and head["status"] not in (204, 304):
            parts.append(b"content-length: %d\r\n" % len(body))
        parts.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        if self.scope["method"] != "HEAD":
            parts.append(body)
        self.waiting_for_100_continue = False
        self.response_started = self.response_complete = True
        self.transport.write(b"".join(parts))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class Protocol(HttpToolsProtocol):
    """One connection; `_head_bytes` counts an unfinished head's bytes, and is −1 behind one.

    The class is made for one server by `protocol_for`, which sets the endpoint of the hot route.
    """

    endpoint: Endpoint
    max_body_bytes: int
    outbox: Outbox
    _head_bytes = -1
    _heard = 0.0
    _writes_wait = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._heard = self.loop.time()

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._head_bytes = -1
        path = self.url.partition(b"?")[0]
        if is_infer(path) and self.parser.get_method() == b"POST":
            self._begin_exchange(path)
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope that only ASGI needs
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if exchange := _exchange(self.cycle):
            exchange.receive(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if exchange := _exchange(self.cycle):
            exchange.finish()
        else:
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        for exchange in (self._now, _exchange(self.cycle)):
            if exchange is not None and not exchange.response_complete:
                exchange.hang_up()
        self.pipeline.clear()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._now = None
        if self.flow.write_paused and not self.transport.is_closing():
            self._writes_wait = True  # a client that reads nothing is not read from either
            self.flow.pause_reading()
        elif self.pipeline or self.flow.read_paused:
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._heard = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writes_wait:
            self._writes_wait = False
            super().on_response_complete()

    def look(self, now: float) -> None:
        """Close what is quiet for too long; called every second or so, which is cheaper than timers."""
        if self.transport is None or self.transport.is_closing():
            return
        quiet_s = now - self._heard
        if self._head_bytes > 0 and quiet_s > HEAD_WITHIN_S:
            self._refuse(b"408 Request Timeout", "the request's head did not arrive in time")
        elif self.cycle is None or self.cycle.response_complete:
            if quiet_s > KEEP_ALIVE_S:
                self.transport.close()
        elif self.cycle.more_body and quiet_s > BODY_PAUSE_S:
            self._refuse(b"408 Request Timeout", "the request's body did not go on in time")

    def give_up(self) -> None:
        """The server ends: what was not answered in time gets its error."""
        for exchange in (self._now, _exchange(self.cycle)):
            if exchange is not None and not exchange.response_complete:
                reason = "the server shut down before the request was answered"
                self.endpoint.refuse(exchange, Draining(reason))

    def data_received(self, data: bytes) -> None:
        if self._head_bytes <= 0:
            self._heard = self.loop.time()  # the slow drip of a head does not count as being heard
        super().data_received(data)
        if self._head_bytes >= 0 and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._refuse(b"431 Request Header Fields Too Large", "the request's head is too large")

    def send_400_response(self, msg: str) -> None:
        self._refuse(b"400 Bad Request", msg)

    # The exchange whose turn it is; uvicorn's `cycle` is the one that is being read.
    _now: Exchange | None = None

    def _begin_exchange(self, path: bytes) -> None:
        before = self.cycle
        exchange = Exchange(
            self,
            self.endpoint,
            path,
            self.headers,
            keep_alive=self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive(),
            max_bytes=self.max_body_bytes,
        )
        self.cycle = cast(Any, exchange)
        if (before is None or before.response_complete) and not self._writes_wait:
            self._start(exchange)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _start(self, exchange: Exchange) -> None:
        self._now = exchange
        exchange.begin()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if exchange := _exchange(cycle):
            self._start(exchange)
            return
        # uvicorn has no setting for the class of its cycles; its task has not begun yet.
        cycle.__class__ = OneWriteCycle
        super()._start_asgi_task(cycle, app)

    def _refuse(self, status: bytes, msg: str) -> None:
        body = error_body(msg)
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()


def _exchange(cycle: Any) -> Exchange | None:
    """What uvicorn's protocol holds as its cycle, if it is of the hot route."""
    return cycle if type(cycle) is Exchange else None


def protocol_for(endpoint: Endpoint, max_body_bytes: int) -> type[Protocol]:
    """The class of a server's connections."""
    shared = {"endpoint": endpoint, "max_body_bytes": max_body_bytes, "outbox": Outbox()}
    return type("Protocol", (Protocol,), shared)


def is_infer(path: bytes) -> bool:
    """Whether a path is the hot route's: /v2/models/M[/versions/V]/infer."""
    return path.endswith(b"/infer") and path.startswith(b"/v2/models/") and path.count(b"/") in (4, 6)
