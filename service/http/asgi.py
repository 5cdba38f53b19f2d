"""An ASGI request and its answer, for everything but the hot route.

In: the messages of an ASGI app.  Out: one write for an answer that is whole, head and body together.
"""

from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

ONE_WRITE_UP_TO = 256 * 1024


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
