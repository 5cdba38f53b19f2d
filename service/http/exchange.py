"""One request of the hot route and its answer, right on the connection: no ASGI, no task, no scope.

In: the head and the body, as uvicorn's protocol parses them.  Out: a call of the endpoint once the body is
whole and the requests before it on this connection are answered; then one write.

uvicorn's protocol holds it where it holds its own request-response cycles, and reads and sets the same names.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.errors import ServiceError, TooLarge
from service.http.body import Buffer
from service.http.outbox import Outbox
from service.http.reply import JSON, Headers, error_body, header_lines


class Connection(Protocol):
    """What an exchange needs of the connection that it came by."""

    transport: Any
    server_state: Any
    outbox: Outbox

    def write(self, content: bytes) -> None: ...
    def on_response_complete(self) -> None: ...


class Endpoint(Protocol):
    """What answers exchanges."""

    def answer(self, exchange: "Exchange") -> None:
        """The request is whole: answer it, now or later."""

    def refuse(self, exchange: "Exchange", error: ServiceError) -> None:
        """The request is wrong already."""


class _Nobody:
    """Stands for the event that wakes a cycle of uvicorn's: nobody sleeps here."""

    def set(self) -> None:
        pass


_NOBODY = _Nobody()


class Exchange:
    """A POST to an inference route, from its head to its answer."""

    __slots__ = (
        "_connection",
        "_endpoint",
        "_expects_continue",
        "_has_turn",
        "_is_whole",
        "_max_bytes",
        "_num_bytes",
        "_parts",
        "begun",
        "disconnected",
        "encoding",
        "header_length",
        "keep_alive",
        "message_event",
        "more_body",
        "on_hang_up",
        "path",
        "read_s",
        "request_id",
        "response_complete",
        "trace_parent",
    )

    def __init__(
        self,
        connection: Connection,
        endpoint: Endpoint,
        path: bytes,
        headers: Headers,
        *,
        keep_alive: bool,
        max_bytes: int,
    ) -> None:
        self.begun = time.perf_counter()
        self.read_s = 0.0
        self.path = path
        self.encoding: bytes | None = None
        self.header_length: bytes | None = None
        self.request_id: bytes | None = None
        self.trace_parent: bytes | None = None
        self.keep_alive = keep_alive
        self.disconnected = self.response_complete = False
        self.more_body = True
        self.message_event = _NOBODY
        self.on_hang_up: Callable[[], None] | None = None
        self._connection = connection
        self._endpoint = endpoint
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._parts: list[bytes] = []
        self._expects_continue = self._has_turn = self._is_whole = False
        for name, value in headers:
            if name == b"inference-header-content-length":
                self.header_length = value
            elif name == b"content-encoding":
                self.encoding = value
            elif name == b"x-request-id":
                self.request_id = value
            elif name == b"traceparent":
                self.trace_parent = value
            elif name == b"content-length":
                self._num_bytes = int(value)  # the parser has refused what is not a number
            elif name == b"expect":
                self._expects_continue = value.lower() == b"100-continue"

    @property
    def body(self) -> Buffer:
        """Everything behind the head."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def begin(self) -> None:
        """The requests before this one are answered."""
        self._has_turn = True
        if self._num_bytes > self._max_bytes:
            self._refuse_size(f"the body has {self._num_bytes} bytes, at most {self._max_bytes} are allowed")
            return
        self._num_bytes = 0
        self._check_size(sum(map(len, self._parts)))
        if self.response_complete:
            return
        if self._is_whole:
            self._endpoint.answer(self)
        elif self._expects_continue:
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def receive(self, body: bytes) -> None:
        """A part of the body."""
        if self.response_complete:
            return
        self._parts.append(body)
        if self._has_turn:
            self._check_size(len(body))

    def finish(self) -> None:
        """The body is whole."""
        self.more_body = False
        self._is_whole = True
        self.read_s = time.perf_counter() - self.begun
        if self._has_turn and not self.response_complete:
            self._endpoint.answer(self)

    def hang_up(self) -> None:
        """The client has gone."""
        self.disconnected = True
        self._parts.clear()
        tell, self.on_hang_up = self.on_hang_up, None
        if tell is not None and not self.response_complete:
            tell()

    def answer(self, status: int, head: bytes, body: Sequence[bytes]) -> None:
        """Write the whole answer, `head` its own header lines; harmless when the client has gone."""
        if self.disconnected or self.response_complete:
            return
        self.response_complete = True
        self._parts.clear()
        connection = self._connection
        parts = [
            STATUS_LINE[status],
            connection.outbox.lines(connection.server_state.default_headers),
            head,
            b"content-length: %d\r\n" % sum(map(len, body)),
            b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n",
            *body,
        ]
        connection.outbox.put(connection.transport, b"".join(parts), is_last=not self.keep_alive)
        connection.on_response_complete()

    def refuse(self, error: ServiceError, head: bytes = b"") -> None:
        """Answer with an error."""
        extra = [(name.encode(), value.encode()) for name, value in error.headers.items()]
        if (b"connection", b"close") in extra:
            extra.remove((b"connection", b"close"))
            self.keep_alive = False
        self.answer(error.status, header_lines((JSON, *extra)) + head, [error_body(str(error))])

    def _check_size(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        if self._num_bytes > self._max_bytes:
            self._refuse_size(f"the body has more than {self._max_bytes} bytes")

    def _refuse_size(self, reason: str) -> None:
        self._parts.clear()
        self._endpoint.refuse(self, TooLarge(reason))
