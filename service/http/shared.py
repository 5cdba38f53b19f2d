"""What the connections of one server share.

In: limits, the endpoint of the hot route, the ASGI app of all others, who may ask (the gate), which pages may
read the answers (CORS).  Out: one object in each connection.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from heapq import nsmallest
from typing import Any, Protocol

from service.access.cors import Cors
from service.access.gate import Gate
from service.http.limits import HttpLimits
from service.http.outbox import Outbox
from service.http.reply import Receive, Scope, Send
from service.http.turns import Turns

LOOK_EVERY_S = 0.01

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Endpoint(Protocol):
    """What answers the exchanges of the hot route."""

    def check_start(self, exchange: Any, start: bytes) -> None:
        """Raise the ServiceError that the request will get, if its head and the body's `start` decide that.

        `start` is empty until enough of a long body is there.
        """

    def answer(self, exchange: Any) -> None:
        """The request is whole: answer it, now or later."""

    def refuse(self, exchange: Any, error: Any) -> None:
        """The request is refused before it is whole: count it, and answer with the ServiceError."""


class Shared:
    """State of a server that its connections read and keep up to date; belongs to one event loop."""

    def __init__(
        self,
        endpoint: Endpoint,
        app: App,
        limits: HttpLimits,
        *,
        gate: Gate | None = None,
        cors: Cors | None = None,
        scheme: str = "http",
    ) -> None:
        self.endpoint = endpoint
        self.gate = gate
        self.cors = cors
        self.scheme = scheme
        self.app = app
        self.limits = limits
        self.outbox = Outbox()
        self.turns = Turns()
        self.connections: dict[Any, None] = {}  # the oldest first
        self.tasks: set[asyncio.Task[None]] = set()
        self.inflight_bytes = 0  # sum of what the connections hold beyond their free bytes
        self.is_draining = False  # every answer says `connection: close`
        self.now_s = 0.0  # the event loop's time, to a second: time-outs need no more, requests pay nothing
        self._longest_idle: deque[Any] = deque()  # connections, when last looked at; the least useful first
        self._looked_s = 0.0
        self.date_line = b""

    def tick(self, now_s: float) -> None:
        """Once a second: set the clock and the Date header, close what took too long."""
        self.now_s = now_s
        self.date_line = b"date: %b\r\n" % formatdate(usegmt=True).encode()
        for connection in list(self.connections):
            connection.close_if_idle(now_s)

    def close_longest_idle(self) -> bool:
        """Close a connection for a new one; False if none is idle.

        Those that no request has come on go first, then the longest idle ones.
        """
        while self._longest_idle:
            if self._longest_idle.popleft().close_if_unused():
                return True
        # Sorting a thousand takes 0.3 ms: not for each of a flood of connections that find the others busy.
        if time.monotonic() - self._looked_s < LOOK_EVERY_S:
            return False
        self._looked_s = time.monotonic()
        # A part of them: before those go that have served their clients, newer ones are looked for.
        most = -(-self.limits.max_connections // 4)
        idle = [connection for connection in self.connections if connection.is_unused]
        self._longest_idle.extend(nsmallest(most, idle, key=lambda connection: connection.usefulness))
        return bool(idle) and self._longest_idle.popleft().close_if_unused()

    def has_room(self, num_bytes: int) -> bool:
        """Whether `num_bytes` more may be in flight."""
        return self.inflight_bytes + num_bytes <= self.limits.max_inflight_bytes
