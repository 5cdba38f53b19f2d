"""Bytes back to a client, without a framework in between.

In: a status, headers and a body, or an error.  Out: two ASGI messages; every error is {"error": "…"}.
"""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson

from service.errors import ServiceError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

MAX_MESSAGE = 1000
ONE_WRITE_UP_TO = 256 * 1024  # of a body: joining it with its head costs a copy

JSON = (b"content-type", b"application/json")
CLOSE = b"connection: close\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES = {
    status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode() for status in range(100, 600)
}


def header_lines(headers: Headers) -> bytes:
    """Headers as they stand on the wire."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


async def send_reply(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Answer."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: ServiceError) -> None:
    """Answer with an error."""
    extra = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    await send_reply(send, error.status, [JSON, *extra], error_body(str(error)))


def error_body(message: str, **members: object) -> bytes:
    """{"error": message}, however long the name was that a client made us repeat."""
    told = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}…"
    # A lone surrogate from a client's escape must not turn the error into another one.
    told = told.encode("utf-8", "replace").decode()
    return orjson.dumps({"error": told, **members})


def final_response(status: int, message: str, date_line: bytes) -> bytes:
    """A whole answer that says why a connection is closed."""
    body = error_body(message)
    length = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    again = b"retry-after: 1\r\n" if status == HTTPStatus.SERVICE_UNAVAILABLE else b""
    return b"".join((STATUS_LINES[status], date_line, length, again, CLOSE, b"\r\n", body))
