"""One request and its answer: what both kinds have in common.

    DirectExchange   the hot route: no ASGI, no task, no scope
    AsgiExchange     every other route

A connection makes it when the head is whole, gives it its turn when the requests before it are answered, and
hands it each part of the body. Requests wait for their turn, because answers must leave in order.
"""

import time
from abc import ABC, abstractmethod
from urllib.parse import unquote

from service.errors import Overloaded, ServiceError, TooLarge
from service.http.channel import Channel
from service.http.parser import Head
from service.http.shared import Shared


class Exchange(ABC):
    """A request, from the end of its head to the end of its answer."""

    def __init__(self, channel: Channel, shared: Shared, head: Head) -> None:
        self.begun = time.perf_counter()
        self.path = head.path
        self.head = head
        self.keep_alive = head.keep_alive
        self.has_turn = self.is_whole = self.is_answered = False
        self.disconnected = False
        self.body_since_s = 0.0  # when the client could begin to send the body
        self.body_bytes = 0
        self._drained_bytes = 0  # of the body, since the answer
        self._channel = channel
        self._shared = shared
        self._owes_continue = head.expects_continue

    @property
    def held_bytes(self) -> int:
        """What the request takes in memory."""
        return self.head.num_bytes + (0 if self.is_answered else self.body_bytes)

    @property
    def wants_body(self) -> bool:
        """Whether more of the body can be taken now."""
        return True

    @property
    def can_probe(self) -> bool:
        """Whether an interim response may be written: it has its turn, and its answer has not begun."""
        return self.has_turn and not self.is_answered and not self.head.is_http_1_0

    def begin(self) -> None:
        """The requests before this one are answered."""
        self.has_turn = True
        self.body_since_s = self._shared.now_s
        if self.head.length > self._shared.limits.max_body_bytes:
            limit = f"{self._shared.limits.max_body_bytes} are allowed (FOLDSERVE_MAX_BODY_MB)"
            self.refuse(TooLarge(f"the body has {self.head.length} bytes, at most {limit}"))
        else:
            self._check_size()

    def closed_gate(self) -> ServiceError | None:
        """Why the request may not pass; None if it may."""
        gate = self._shared.gate
        if gate is None:
            return None
        path = self.path.decode("latin-1")
        if "%" in path:  # as the routes see it
            path = unquote(path)
        try:
            gate.check(self.head.method.decode("latin-1"), path, self.head.headers, self._channel.peer())
        except ServiceError as error:
            return error
        return None

    def add(self, part: bytes) -> None:
        """A part of the body."""
        self.body_bytes += len(part)
        if self.is_answered:
            self._drained_bytes += len(part)
            if self._drained_bytes > self._shared.limits.max_drained_bytes:
                self._channel.close()  # refused long ago, and it does not end
            return
        self._take(part)
        self._check_size()

    def finish(self) -> None:
        """The body is whole."""
        self.is_whole = True

    def hang_up(self) -> None:
        """The client has gone."""
        self.disconnected = True

    @abstractmethod
    def refuse(self, error: ServiceError) -> None:
        """Answer with an error now; the body is not wanted any more."""

    def fail(self, error: ServiceError) -> None:
        """Answer with an error because the server ends."""
        self.refuse(error)

    @abstractmethod
    def _take(self, part: bytes) -> None:
        """A part of the body, of a request that is not answered yet."""

    def _check_size(self) -> None:
        limit = self._shared.limits.max_body_bytes
        if self.body_bytes <= limit:
            return
        if self.body_bytes > limit + self._shared.limits.max_drained_bytes:
            self._channel.close()  # without its turn so far, or the app has been told and does not answer
        elif self.has_turn and not self.is_answered:
            self.refuse(TooLarge(f"the body has more than {limit} bytes (FOLDSERVE_MAX_BODY_MB)"))

    def _keeps_alive(self) -> bool:
        """Whether the connection can go on after the answer, if that is given now."""
        if not self.keep_alive or self._shared.is_draining:
            return False
        if self.is_whole:
            return True
        # A client that waits for 100 Continue may leave its body out and send its next request instead: we
        # could not tell which. What is too long to be read to its end would only be read in vain.
        rest_bytes = self.head.length - self.body_bytes
        return not self._owes_continue and rest_bytes <= self._shared.limits.max_drained_bytes


def no_room() -> Overloaded:
    """The refusal when all connections together hold too much."""
    return Overloaded("too many bytes are in flight (FOLDSERVE_MAX_INFLIGHT_MB); try again")
