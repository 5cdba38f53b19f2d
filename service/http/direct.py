"""An exchange of the hot route, answered on the connection itself: no ASGI, no task, no scope.

In: head and body.  Out: a call of the endpoint once the body is whole and it has its turn; then one write.
"""

import time
from collections.abc import Callable

from service.contract.bytes_like import Buffer
from service.errors import ServiceError
from service.http.channel import Channel
from service.http.exchange import Exchange, no_room
from service.http.limits import START_BYTES
from service.http.parser import Head
from service.http.reply import (
    CLOSE,
    CONTINUE,
    JSON,
    ONE_WRITE_UP_TO,
    STATUS_LINES,
    error_body,
    header_lines,
)
from service.http.shared import Shared
from service.isolation.gathered import Gathered


class DirectExchange(Exchange):
    """A POST to an inference route."""

    def __init__(self, channel: Channel, shared: Shared, head: Head) -> None:
        super().__init__(channel, shared, head)
        self.read_s = 0.0
        self.encoding: bytes | None = None
        self.header_length: bytes | None = None
        self.request_id: bytes | None = None
        self.trace_parent: bytes | None = None
        self.origin: bytes | None = None
        self._lacks_start = False  # of a long body; then it is checked as soon as that is there
        self.on_hang_up: Callable[[], None] | None = None
        self._only: bytes = b""  # a body that comes in one part, as most do
        self._gathered: Gathered | None = None
        for name, value in head.headers:
            if name == b"inference-header-content-length":
                self.header_length = value
            elif name == b"content-encoding":
                self.encoding = value
            elif name == b"x-request-id":
                self.request_id = value
            elif name == b"traceparent":
                self.trace_parent = value
            elif name == b"origin":
                self.origin = value

    @property
    def body(self) -> Buffer:
        """Everything after the head, as sent."""
        return self._only if self._gathered is None else self._gathered.content

    def take_body(self) -> Buffer:
        """The body; the exchange keeps it no longer, though it counts as held until the answer."""
        body = self.body
        self._drop_body()
        return body

    def begin(self) -> None:
        super().begin()
        if not self.is_answered and (error := self.closed_gate()) is not None:
            self.refuse(error)
        if self.is_answered:
            return
        if self.is_whole:
            self._shared.endpoint.answer(self)
            return
        length = self.head.length
        if length > START_BYTES or length < 0 or self._owes_continue:
            self._check_start()
        if self._owes_continue and not self.is_answered:
            self._owes_continue = False
            self._channel.write(CONTINUE)

    def finish(self) -> None:
        self.is_whole = True
        self.read_s = time.perf_counter() - self.begun
        if self.has_turn and not self.is_answered:
            self._shared.endpoint.answer(self)

    def hang_up(self) -> None:
        self.disconnected = True
        notify, self.on_hang_up = self.on_hang_up, None
        if notify is not None and not self.is_answered:
            notify()
        self._drop_body()

    def answer(self, status: int, head: bytes, body: list[bytes]) -> None:
        """Write the whole answer, `head` its own header lines; harmless when the client has gone.

        Raises Overloaded if it is large and there is no room for it: the caller counts and answers that.
        """
        if self.disconnected or self.is_answered:
            return
        shared = self._shared
        num_bytes = 0
        for part in body:
            num_bytes += len(part)
        if num_bytes > shared.limits.free_bytes and not shared.has_room(num_bytes):
            raise no_room()
        self.is_answered = True
        self._drop_body()
        keeps_alive = self._keeps_alive()
        content = [
            STATUS_LINES[status],
            shared.date_line,
            head,
            b"" if shared.cors is None else shared.cors.lines(self.origin),
            b"content-length: %d\r\n" % num_bytes,
            b"\r\n" if keeps_alive else CLOSE + b"\r\n",
        ]
        if num_bytes <= ONE_WRITE_UP_TO:
            content += body
            shared.outbox.put(self._channel, b"".join(content), closes=not keeps_alive)
        else:
            shared.outbox.put(self._channel, b"".join(content), closes=False)
            for index in range(len(body)):
                is_last = index == len(body) - 1
                shared.outbox.put(self._channel, body[index], closes=is_last and not keeps_alive)
        self._channel.answered(keeps_alive=keeps_alive)

    def answer_error(self, error: ServiceError, head: bytes) -> None:
        """Answer with an error, `head` further header lines."""
        extra = [(name.encode(), value.encode()) for name, value in error.headers.items()]
        if (b"connection", b"close") in extra:
            extra.remove((b"connection", b"close"))
            self.keep_alive = False
        self.answer(error.status, header_lines((JSON, *extra)) + head, [error_body(str(error))])

    def refuse(self, error: ServiceError) -> None:
        self._drop_body()
        self._shared.endpoint.refuse(self, error)

    def _check_start(self) -> None:
        """Refuse the request now if its head, or the start of its body once it is there, decides that."""
        self._lacks_start = self.body_bytes < START_BYTES
        start = b"" if self._lacks_start else bytes(self.body[:START_BYTES])
        try:
            self._shared.endpoint.check_start(self, start)
        except ServiceError as error:
            self.refuse(error)

    def _take(self, part: bytes) -> None:
        if self._gathered is not None:
            self._gathered.add(part)
        elif self._only:
            length, limit = self.head.length, self._shared.limits.max_body_bytes
            # A length over the limit is refused only when the request has its turn.
            gathered = self._gathered = Gathered(limit if length < 0 else min(length, limit))
            gathered.add(self._only)
            gathered.add(part)
            self._only = b""
        else:
            self._only = part
        if self._lacks_start and self.body_bytes >= START_BYTES and self.body_bytes != self.head.length:
            self._check_start()

    def _drop_body(self) -> None:
        self._only = b""
        self._gathered = None
