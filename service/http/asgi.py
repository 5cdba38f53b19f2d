"""An exchange of every other route, answered by an ASGI app.

In: head and body.  Out: a task that runs the app. An answer that is whole leaves in one write, head and body
together.
"""

import asyncio
import contextlib
import logging
from urllib.parse import unquote

import httptools

from service.errors import ServiceError
from service.http.channel import Channel
from service.http.exchange import Exchange
from service.http.parser import Head
from service.http.reply import (
    CLOSE,
    CONTINUE,
    JSON,
    ONE_WRITE_UP_TO,
    STATUS_LINES,
    Message,
    Scope,
    error_body,
    send_error,
    send_reply,
)
from service.http.shared import Shared

BUFFER_UP_TO = 64 * 1024  # of a body that the app does not read

_log = logging.getLogger("foldserve")


class AsgiExchange(Exchange):
    """A request that an ASGI app answers."""

    def __init__(self, channel: Channel, shared: Shared, head: Head, addresses: Scope) -> None:
        super().__init__(channel, shared, head)
        self._addresses = addresses
        self._buffer = bytearray()
        self._is_end_told = False
        self._changed = asyncio.Event()
        self._error: ServiceError | None = None
        self._task: asyncio.Task[None] | None = None
        self._start: Message | None = None  # the answer's head is kept until its body begins, as ASGI asks
        self._has_begun = False
        self._is_chunked = False
        self._left: int | None = None  # bytes of a body with a content-length still to be written

    @property
    def held_bytes(self) -> int:
        return self.head.num_bytes + len(self._buffer)

    @property
    def wants_body(self) -> bool:
        return self.is_answered or self._error is not None or len(self._buffer) < BUFFER_UP_TO

    @property
    def can_probe(self) -> bool:
        return super().can_probe and not self._has_begun

    def begin(self) -> None:
        super().begin()
        task = asyncio.get_running_loop().create_task(self._run())
        self._task = task
        self._shared.tasks.add(task)
        task.add_done_callback(self._shared.tasks.discard)

    def finish(self) -> None:
        self.is_whole = True
        self._changed.set()

    def hang_up(self) -> None:
        self.disconnected = True
        self._changed.set()

    def refuse(self, error: ServiceError) -> None:
        """The app gets the error when it asks for the body; one that never asks does not mind."""
        self._error = error
        self._buffer.clear()
        self._changed.set()

    def fail(self, error: ServiceError) -> None:
        if self._task is not None:
            self._task.cancel()

    def _take(self, part: bytes) -> None:
        if self._error is None:
            self._buffer += part
            self._changed.set()

    async def _run(self) -> None:
        try:
            if (error := self.closed_gate()) is not None:
                await send_error(self.send, error)
                return
            await self._shared.app(self._scope(), self.receive, self.send)
            fault = None if self.is_answered or self.disconnected else "the app has not answered"
        except Exception as error:
            _log.exception("event=app_failed")
            fault = str(error)
        if fault is None or self.is_answered or self.disconnected:
            return
        self.keep_alive = False
        if self._has_begun:  # what is missing cannot be made up for
            self._end()
        else:
            self._start = None
            with contextlib.suppress(RuntimeError):
                await send_reply(self.send, 500, (JSON,), error_body("internal server error"))

    async def receive(self) -> Message:
        """ASGI's receive: parts of the body as they come, then that the client has gone; raises a refusal."""
        if self._owes_continue and not self._has_begun and not self.is_whole:
            self._owes_continue = False
            self._channel.write(CONTINUE)
        while True:
            if self.disconnected or self.is_answered:
                return {"type": "http.disconnect"}
            if self._error is not None:
                raise self._error
            if self._buffer or (self.is_whole and not self._is_end_told):
                part = bytes(self._buffer)
                self._buffer.clear()
                self._is_end_told = self.is_whole
                self._channel.body_taken()
                return {"type": "http.request", "body": part, "more_body": not self.is_whole}
            self._changed.clear()
            await self._changed.wait()

    async def send(self, message: Message) -> None:
        """ASGI's send; waits while the client does not read."""
        if self.disconnected:
            return
        if self.is_answered:
            raise RuntimeError(f"{message['type']} after the answer was complete")
        if message["type"] == "http.response.start":
            if self._start is not None or self._has_begun:
                raise RuntimeError("the answer has begun already")
            self._start = message
            return
        if message["type"] != "http.response.body":
            raise RuntimeError(f"unexpected ASGI message {message['type']}")
        await self._channel.wait_until_writable()
        if not self.disconnected:
            self._send_body(bytes(message.get("body", b"")), ends=not message.get("more_body", False))

    def _send_body(self, body: bytes, *, ends: bool) -> None:
        head = b""
        if not self._has_begun:
            if self._start is None:
                raise RuntimeError("the answer's body came before its head")
            head = self._begin_answer(self._start, body, ends=ends)
            self._has_begun = True
        if self.head.method == b"HEAD":
            body = b""
        elif self._is_chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body += b"0\r\n\r\n" if ends else b""
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (ends and self._left):
                raise RuntimeError("Content-Length is not the body's length")
        if len(body) <= ONE_WRITE_UP_TO:
            self._channel.write(head + body)
        else:
            self._channel.write(head)
            self._channel.write(body)
        if ends:
            self._end()

    def _begin_answer(self, start: Message, body: bytes, *, ends: bool) -> bytes:
        """The head. It frames the body by a length, by chunks or by closing the connection."""
        status = start["status"]
        lines = [STATUS_LINES[status], self._shared.date_line]
        for name, value in start.get("headers", ()):
            lower = name.lower()
            if any(byte in name + value for byte in (b"\r", b"\n", b"\0")):
                raise RuntimeError("a header holds a line break")
            if lower == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in value.lower()
                continue
            if lower == b"transfer-encoding":
                continue
            if lower == b"content-length":
                self._left = int(value)
            lines += (name, b": ", value, b"\r\n")
        if self._left is None and status not in (204, 304) and self.head.method != b"HEAD":
            if ends:
                self._left = len(body)
                lines.append(b"content-length: %d\r\n" % len(body))
            elif self.head.is_http_1_0:
                self.keep_alive = False
            else:
                self._is_chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        if not self._keeps_alive():
            self.keep_alive = False
            lines.append(CLOSE)
        lines.append(b"\r\n")
        return b"".join(lines)

    def _end(self) -> None:
        self.is_answered = True
        self._buffer.clear()
        self._changed.set()
        # The head has promised; what has begun to end since does not take that back.
        if not self.keep_alive:
            self._channel.close()
        self._channel.answered(keeps_alive=self.keep_alive)

    def _scope(self) -> Scope:
        url = self.head.url
        if not url.startswith(b"/"):
            parsed = httptools.parse_url(url)
            query = parsed.query or b""
        else:
            query = url.partition(b"?")[2].partition(b"#")[0]
        path = self.path.decode("latin-1")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.0" if self.head.is_http_1_0 else "1.1",
            "method": self.head.method.decode("ascii"),
            "scheme": self._shared.scheme,
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": self.path,
            "query_string": query,
            # No route reads cookies, and FastAPI would parse them for each: 120 kB take it 10 ms.
            "headers": [pair for pair in self.head.headers if pair[0] != b"cookie"],
            "state": {},
            **self._addresses,
        }
