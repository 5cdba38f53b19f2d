"""Flow control of one connection: its state, and what follows from it.

In: what the connection does and hears.  Out: whether to read, what it holds in memory, what is overdue.

Each answer is computed anew from the whole state. Flags that are set and cleared wherever something happens
would have to agree in every order in which bytes, answers and closings can come.
"""

from collections import deque

from service.http.exchange import Exchange
from service.http.limits import HttpLimits


class Flow:
    """State of a connection; times are those of the event loop, to a second."""

    def __init__(self, limits: HttpLimits, now_s: float) -> None:
        self.current: Exchange | None = None  # has its turn
        self.waiting: deque[Exchange] = deque()  # before their turn, oldest first
        self.incoming: Exchange | None = None  # the newest, while its body arrives
        self.unparsed = b""  # received, but a request before it has to go first
        self.head_bytes = 0  # of a head that has begun and is not whole
        self.final_response: bytes | None = None  # said after the answers that are due, before closing
        self.is_last = False  # no further request is read
        self.is_at_eof = False  # the client has said that it sends no more
        self.is_write_paused = False  # the client does not read
        self.rests = False  # has received its share of this turn of the event loop
        self.lingers_since_s = -1.0  # since when input is only discarded; −1 before that
        self.heard_s = now_s  # when a head began, a body continued or an answer was given
        self.written_bytes = 0  # since the connection was made
        self._limits = limits
        self._mark_bytes = 0  # what had been written at `_mark_s`
        self._mark_s = now_s

    @property
    def parses(self) -> bool:
        """Whether more requests, or more of this one, can be made of bytes."""
        # One that waits is enough: what comes after it stays in the socket, where the client feels it.
        if self.waiting or self.is_last:
            return False
        return self.incoming is None or self.incoming.wants_body

    @property
    def reads(self) -> bool:
        """Whether to read from the socket: whenever possible, for without it a hang-up goes unnoticed."""
        if self.rests:
            return False
        if self.lingers_since_s >= 0:
            return True
        if self.is_at_eof or self.unparsed or self.waiting:
            return False
        return self.incoming is None or self.incoming.wants_body

    @property
    def is_idle(self) -> bool:
        """Whether the client is due nothing."""
        return self.current is None and not self.waiting and self.final_response is None

    @property
    def may_advance(self) -> bool:
        """Whether the next may have its turn: not while one has it, nor while the client does not read."""
        return self.current is None and not self.is_write_paused

    def held_bytes(self, unsent_bytes: int) -> int:
        """Bytes in memory: requests from their first byte on, and answers until they have left."""
        num_bytes = len(self.unparsed) + self.head_bytes + unsent_bytes
        if self.current is not None:
            num_bytes += self.current.held_bytes
        for exchange in self.waiting:
            num_bytes += exchange.held_bytes
        return num_bytes

    def is_write_overdue(self, now_s: float, unsent_bytes: int) -> bool:
        """Whether what was written a write timeout ago has not all left since."""
        if self.written_bytes - unsent_bytes >= self._mark_bytes:
            self._mark_bytes, self._mark_s = self.written_bytes, now_s
            return False
        return now_s - self._mark_s > self._limits.write_timeout_s

    def overdue(self, now_s: float) -> str | None:
        """Why the client takes too long: a sentence for it, "" if it is merely idle, None if it does not."""
        limits = self._limits
        quiet_s = now_s - self.heard_s
        body = self.incoming
        if body is not None and (body.has_turn or body.is_answered):
            if not self.reads:
                return None  # the app does not take the body: that is not the client's fault
            if now_s - body.body_since_s > limits.body_timeout_s:
                limit = f"{limits.body_timeout_s:g} s (FOLDSERVE_BODY_TIMEOUT_S)"
                return f"the request's body did not arrive in time, within {limit}"
            if quiet_s > limits.body_pause_s:
                return f"the request's body did not continue in time, within {limits.body_pause_s:g} s"
        elif self.is_idle:
            if self.head_bytes == 0:
                return "" if quiet_s > limits.keep_alive_s else None
            if quiet_s > limits.head_timeout_s:
                return f"the request's head did not arrive in time, within {limits.head_timeout_s:g} s"
        return None
