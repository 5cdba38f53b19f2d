"""HTTP/1.1 on a socket: uvicorn's httptools protocol, with three habits changed.

In: bytes from a client.  Out: ASGI calls, or exchanges of the hot route; bytes back.

    a POST to …/infer becomes an `Exchange`, answered without ASGI: no scope, no task, one write
    an answer that is whole leaves in one write, head and body together (uvicorn makes two)
    HTTP that cannot be parsed gets its 400 in JSON, as every error does; an endless head, 431; a head or body
    that stops arriving, 408
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn import Config
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.errors import Draining
from service.http.asgi import OneWriteCycle
from service.http.exchange import Endpoint, Exchange
from service.http.outbox import Outbox
from service.http.reply import error_body

MAX_HEAD = 1024 * 1024
KEEP_ALIVE_S = 75  # as nginx: longer than the pools of clients keep a connection that they do not use
HEAD_WITHIN_S = 20
BODY_PAUSE_S = 60


class Protocol(HttpToolsProtocol):
    """One connection. Requests that arrive before their turn wait in `pipeline`, the newest on the left."""

    def __init__(self, endpoint: Endpoint, max_body_bytes: int, outbox: Outbox, *of_uvicorn: Any) -> None:
        super().__init__(*of_uvicorn)
        self.endpoint = endpoint
        self.max_body_bytes = max_body_bytes
        self.outbox = outbox
        self._head_bytes = -1  # bytes of an unfinished head, −1 behind one
        self._heard = 0.0
        self._now: Exchange | None = (
            None  # the exchange whose turn it is; uvicorn's `cycle` is the newest one
        )
        self._is_busy = False  # a request has its turn
        self._last_words: bytes | None = None  # what to say, once the others are answered, before closing
        self._body_left = 0  # bytes of a body that the parser took for another protocol's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._heard = self.loop.time()

    def data_received(self, data: bytes) -> None:
        if self._last_words is not None:
            return
        if self._head_bytes <= 0:
            self._heard = self.loop.time()  # the slow drip of a head does not count as being heard
        if self._body_left:
            data = self._take_body(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # We go on as we are. The parser has given up on the body behind the head.
            self.parser = httptools.HttpRequestParser(self)
            if rest := data[upgrade.args[0] :]:
                self.data_received(rest)
            return
        except httptools.HttpParserError:
            self._refuse(b"400 Bad Request", "Invalid HTTP request received.")
            return
        if self._head_bytes >= 0 and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._refuse(b"431 Request Header Fields Too Large", "the request's head is too large")

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._head_bytes = -1
        if self.parser.should_upgrade():
            lengths = [int(value) for name, value in self.headers if name == b"content-length"]
            self._body_left = lengths[0] if lengths else 0
        path = self.url if self.url.startswith(b"/") else httptools.parse_url(self.url).path or b""
        path = path.partition(b"?")[0]
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
        if self._body_left:
            return
        if exchange := _exchange(self.cycle):
            exchange.finish()
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self._now = None
        self._is_busy = False
        self._heard = self.loop.time()
        if self.pipeline or self.flow.read_paused or self._last_words is not None:
            # Behind what waits in the outbox, and never one inside the other.
            self.loop.call_soon(self._advance)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        for exchange in (self._now, _exchange(self.cycle)):
            if exchange is not None and not exchange.response_complete:
                exchange.hang_up()
        self.pipeline.clear()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self.outbox.flush()
        super().shutdown()

    def look(self, now: float) -> None:
        """Close what is quiet for too long; called every second or so, which is cheaper than timers."""
        if self.transport is None or self.transport.is_closing():
            return
        quiet_s = now - self._heard
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.more_body and quiet_s > BODY_PAUSE_S:
                self._say(b"408 Request Timeout", "the request's body did not go on in time")
        elif self._head_bytes > 0 and quiet_s > HEAD_WITHIN_S:
            self._refuse(b"408 Request Timeout", "the request's head did not arrive in time")
        elif quiet_s > KEEP_ALIVE_S:
            self.transport.close()

    def give_up(self) -> None:
        """The server ends: what was not answered in time gets its error."""
        for exchange in (self._now, _exchange(self.cycle)):
            if exchange is not None and not exchange.response_complete:
                reason = "the server shut down before the request was answered"
                self.endpoint.refuse(exchange, Draining(reason))

    def write(self, content: bytes) -> None:
        """Write now, behind what waits in the outbox."""
        self.outbox.flush()
        self.transport.write(content)

    def send_400_response(self, msg: str) -> None:
        self._refuse(b"400 Bad Request", msg)

    def _take_body(self, data: bytes) -> bytes:
        """What is behind the body that the parser has given up on."""
        body, rest = data[: self._body_left], data[self._body_left :]
        self._body_left -= len(body)
        self.on_body(body)
        if self._body_left == 0:
            self.on_message_complete()
        return rest

    def _begin_exchange(self, path: bytes) -> None:
        exchange = Exchange(
            self,
            self.endpoint,
            path,
            self.headers,
            keep_alive=self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive(),
            max_bytes=self.max_body_bytes,
        )
        self.cycle = cast(Any, exchange)
        if self._is_busy or self.pipeline or self.flow.write_paused:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        else:
            self._start(exchange)

    def _start(self, exchange: Exchange) -> None:
        self._is_busy = True
        self._now = exchange
        exchange.begin()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        # uvicorn has no setting for the class of its cycles; its task has not begun yet.
        self._is_busy = True
        cycle.__class__ = OneWriteCycle
        super()._start_asgi_task(cycle, app)

    def _advance(self) -> None:
        """Start the next request in line, or read on; not while one has its turn, or nobody reads answers."""
        if self._is_busy or self.flow.write_paused or self.transport.is_closing():
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            if exchange := _exchange(cycle):
                self._start(exchange)
            else:
                self._start_asgi_task(cycle, app)
        elif self._last_words is not None:
            self.write(self._last_words)
            self.transport.close()
        else:
            self.flow.resume_reading()

    def _refuse(self, status: bytes, msg: str) -> None:
        """Say it behind the answers to come, and close; a request that is broken itself gets no other."""
        broken = self.cycle if self.cycle is not None and self.cycle.more_body else None
        if broken is not None and self.pipeline and self.pipeline[0][0] is broken:
            self.pipeline.popleft()
        elif broken is not None and not broken.response_complete:
            self._say(status, msg)
            return
        self._last_words = _closing(status, msg)
        self._advance()

    def _say(self, status: bytes, msg: str) -> None:
        """Say it now, and close."""
        self.write(_closing(status, msg))
        self.transport.close()


def _closing(status: bytes, msg: str) -> bytes:
    body = error_body(msg)
    return (
        b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )


def _exchange(cycle: Any) -> Exchange | None:
    """What uvicorn's protocol holds as its cycle, if it is of the hot route."""
    return cycle if type(cycle) is Exchange else None


def protocol_for(endpoint: Endpoint, max_body_bytes: int) -> Callable[..., Protocol]:
    """What makes a server's connections, which share an outbox."""
    outbox = Outbox()

    def connect(
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Protocol:
        return Protocol(endpoint, max_body_bytes, outbox, config, server_state, app_state, _loop)

    return connect


def is_infer(path: bytes) -> bool:
    """Whether a path is the hot route's: /v2/models/M[/versions/V]/infer."""
    return path.endswith(b"/infer") and path.startswith(b"/v2/models/") and path.count(b"/") in (4, 6)
