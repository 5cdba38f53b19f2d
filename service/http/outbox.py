"""The outbox: answers that are ready leave together, one write after another.

In: bytes for a connection.  Out: the same bytes, on the next turn of the event loop, in the order they came.

Each write wakes the client that waits for it. Spread over the encoding of a batch, that costs a wake-up per
answer; one after another, a client of many connections stays awake for all of them.
"""

import asyncio
from typing import Any

from service.http.reply import Headers, header_lines


class Outbox:
    """What is ready to leave, and the headers that all of it carries; belongs to one event loop."""

    def __init__(self) -> None:
        self._ready: list[tuple[Any, bytes, bool]] = []
        self._headers: Headers = ()
        self._lines = b""

    def lines(self, headers: Headers) -> bytes:
        """Headers as they stand on the wire; uvicorn makes a new list of them each second."""
        if headers is not self._headers:
            self._headers, self._lines = headers, header_lines(headers)
        return self._lines

    def put(self, transport: Any, content: bytes, *, is_last: bool) -> None:
        """Write soon; `is_last` closes the connection behind it."""
        if not self._ready:
            asyncio.get_running_loop().call_soon(self.flush)
        self._ready.append((transport, content, is_last))

    def flush(self) -> None:
        """Write now."""
        ready, self._ready = self._ready, []
        for transport, content, is_last in ready:
            if not transport.is_closing():
                transport.write(content)
                if is_last:
                    transport.close()
