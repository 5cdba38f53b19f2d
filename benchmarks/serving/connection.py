"""One HTTP/1.1 connection that carries one request at a time.

In: a request's bytes.  Out: a call with the status and body of its answer; status 0 if it broke.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

Done = Callable[["Connection", int, bytes], None]


class Connection(asyncio.Protocol):
    """A client's connection; httptools finds where an answer ends.

    `done` is called with the connection, the status (0 if it broke) and the body of each answer.
    """

    def __init__(self, done: Done) -> None:
        self._done = done
        self._transport: asyncio.WriteTransport | None = None
        self._is_busy = False
        self._body: list[bytes] = []
        self.tag = 0  # for the sender to use

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def send(self, content: bytes) -> None:
        """Send the next request; the connection must be open and idle."""
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._is_busy = True
        self._body.clear()
        self._transport.write(content)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's transports are not a subclass

    def data_received(self, data: bytes) -> None:
        if self._is_busy:
            self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._is_busy:
            self._is_busy = False
            self._done(self, 0, b"")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._is_busy = False
        if not self._parser.should_keep_alive():
            self.close()
        self._done(self, self._parser.get_status_code(), b"".join(self._body))
