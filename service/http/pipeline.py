"""The requests of one connection, each with its turn when those before it are answered.

In: bytes from a client.  Out: exchanges in the order of their requests; bytes back.

    a POST to …/infer becomes a DirectExchange, anything else an AsgiExchange
    what cannot be understood, is too much or stops arriving gets a final response in JSON, after the answers
    that are due before it, and the connection closes

Whether to read, and what counts as in flight, is decided in `_update_reading` alone; whose turn it is, in
`_advance`. Both compute it from the state of the connection, which is a `Flow`.
"""

import asyncio
import time
from typing import Any

from service.http.asgi import AsgiExchange
from service.http.channel import Channel
from service.http.direct import DirectExchange
from service.http.exchange import Exchange
from service.http.flow import Flow
from service.http.parser import Head, Refused, RequestParser
from service.http.reply import Scope, final_response
from service.http.shared import Shared

PART = 2 * 1024  # parsed at once of what has waited for a turn
TURN_S = 0.00025  # of a connection's turn; what is begun by then is finished: 2 KiB of one-byte chunks


class Pipeline(Channel):
    """What one client has asked for on a connection, and what it is due."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._flow = Flow(shared.limits, shared.now_s)
        self._parser = RequestParser(shared.limits, self._on_head, self._on_part, self._on_end)
        self._is_reading = True
        self._has_asked = False  # for a turn
        self._has_begun = False  # a request, among the bytes that are being parsed
        self._counted_bytes = 0  # of shared.inflight_bytes
        self._writable: asyncio.Future[None] | None = None
        self._addresses: Scope = {}

    def send(self, content: bytes) -> None:
        if not self._transport.is_closing():
            self._flow.written_bytes += len(content)
            self._transport.write(content)

    def write(self, content: bytes) -> None:
        self._shared.outbox.flush()
        self.send(content)

    def answered(self, *, keeps_alive: bool) -> None:
        flow = self._flow
        flow.current = None
        flow.heard_s = self._shared.now_s
        if not keeps_alive:
            flow.is_last, flow.unparsed = True, b""
            flow.waiting.clear()
        if not self._is_reading or flow.waiting or self._counted_bytes or flow.final_response is not None:
            # After what waits in the outbox, and never one inside the other.
            self._ask_for_turn()

    def body_taken(self) -> None:
        self._ask_for_turn()

    def take_turn(self) -> bool:
        flow = self._flow
        self._has_asked = False
        has_rested, flow.rests = flow.rests, False
        before = flow.current
        self._advance()
        # What is read next, up to 256 KiB, is a turn's share by itself; so is a task of an app.
        return has_rested or (flow.current is not before and isinstance(flow.current, AsgiExchange))

    def peer(self) -> str:
        client = self._endpoints()["client"]
        return client[0] if client else ""

    async def wait_until_writable(self) -> None:
        while self._flow.is_write_paused and not self._transport.is_closing():
            if self._writable is None:
                self._writable = self._loop.create_future()
            await self._writable

    def close(self) -> None:
        flow = self._flow
        flow.is_last = True
        flow.waiting.clear()
        if self._transport.is_closing() or flow.lingers_since_s >= 0:
            return
        if flow.incoming is None and self._is_reading:
            self._transport.close()
        else:
            self._linger()

    def _feed(self, data: bytes) -> None:
        self._has_begun = False
        try:
            self._parser.feed(data)
        except Refused as refused:
            self._refuse(refused.status, str(refused))
        head_bytes = self._parser.head_bytes
        if head_bytes > 0 and self._flow.head_bytes == 0:
            self._flow.heard_s = self._shared.now_s  # a head that drips is not given more time
        self._flow.head_bytes = head_bytes

    def _parse(self, until_s: float) -> None:
        """Make requests of what is unparsed, until one has to wait or the connection's turn is over."""
        flow = self._flow
        view, at = memoryview(flow.unparsed), 0
        while at < len(view) and flow.parses:
            size = PART if flow.incoming is None else max(PART, self._parser.body_left)
            part = bytes(view[at : at + size])
            at += len(part)
            self._feed(part)
            if time.perf_counter() > until_s:
                break
        flow.unparsed = b"" if flow.is_last else bytes(view[at:])
        if (flow.waiting and flow.may_advance) or (flow.unparsed and flow.parses):
            self._ask_for_turn()
        self._update_reading()

    def _on_head(self, head: Head) -> None:
        flow = self._flow
        if flow.is_last:
            flow.incoming = None
            return
        flow.heard_s = self._shared.now_s
        exchange: Exchange
        if head.method == b"POST" and is_infer(head.path):
            exchange = DirectExchange(self, self._shared, head)
        else:
            exchange = AsgiExchange(self, self._shared, head, self._endpoints())
        flow.incoming = exchange
        # One of those that came together is answered right away; the next ones have their turns with others'.
        if flow.may_advance and not flow.waiting and not self._has_begun:
            self._has_begun = True
            flow.current = exchange
            exchange.begin()
        else:
            flow.waiting.append(exchange)

    def _on_part(self, part: bytes) -> None:
        if self._flow.incoming is not None:
            self._flow.incoming.add(part)

    def _on_end(self) -> None:
        flow = self._flow
        exchange, flow.incoming = flow.incoming, None
        if exchange is not None:
            flow.is_last = flow.is_last or not exchange.keep_alive
            exchange.finish()

    def _ask_for_turn(self) -> None:
        if not self._has_asked:
            self._has_asked = True
            self._shared.turns.ask(self)

    def _advance(self) -> None:
        """Give the next their turn: requests, the final response, or what is unparsed."""
        flow = self._flow
        if self._transport.is_closing():
            return
        until_s = time.perf_counter() + TURN_S
        while flow.waiting and flow.may_advance:
            flow.current = flow.waiting.popleft()
            flow.current.begin()
            if time.perf_counter() > until_s:
                break
        if not flow.waiting and flow.final_response is not None and flow.may_advance:
            self.write(flow.final_response)
            flow.final_response = None
            self._linger()
        if flow.unparsed and flow.parses and time.perf_counter() <= until_s:
            self._parse(until_s)
            return
        if (flow.waiting and flow.may_advance) or (flow.unparsed and flow.parses):
            self._ask_for_turn()
        self._update_reading()

    def _update_reading(self) -> None:
        """Read or not, and what is in flight: both follow from the state, and are set here alone."""
        if self._transport.is_closing():
            return
        flow = self._flow
        reads = flow.reads
        if reads != self._is_reading:
            self._is_reading = reads
            if reads:
                flow.heard_s = self._shared.now_s  # while we did not read, the client could not be heard
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
        unsent_bytes = self._transport.get_write_buffer_size() if flow.is_write_paused else 0
        counted_bytes = max(0, flow.held_bytes(unsent_bytes) - self._shared.limits.free_bytes)
        if counted_bytes != self._counted_bytes:
            self._shared.inflight_bytes += counted_bytes - self._counted_bytes
            self._counted_bytes = counted_bytes

    def _refuse(self, status: int, message: str) -> None:
        """Say it after the answers that are due, and close; a request that is broken itself gets no other."""
        flow = self._flow
        flow.is_last = True
        flow.unparsed = b""
        broken = flow.incoming
        if broken is not None and broken.is_answered:
            self.close()
            return
        if broken is not None and flow.waiting:
            flow.waiting.pop()
        elif broken is not None and broken is flow.current:
            flow.current = None
            broken.hang_up()
        flow.final_response = final_response(status, message, self._shared.date_line)
        self._advance()

    def _linger(self) -> None:
        """Close, but not under what the client still sends: a reset might take the answer from it."""
        flow = self._flow
        if flow.is_at_eof:
            self._transport.close()
            return
        self._parser.close()
        flow.incoming, flow.unparsed = None, b""
        flow.lingers_since_s = self._shared.now_s
        if self._transport.can_write_eof():  # not with TLS, whose end is said when the connection closes
            self._transport.write_eof()
        self._update_reading()

    def _wake_writer(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def _endpoints(self) -> Scope:
        """The two ends of the connection, for ASGI; asked for once, and never by the hot route."""
        if not self._addresses:
            for end, name in (("client", "peername"), ("server", "sockname")):
                address = self._transport.get_extra_info(name)
                self._addresses[end] = tuple(address[:2]) if isinstance(address, tuple) else None
        return self._addresses


def is_infer(path: bytes) -> bool:
    """Whether a path is the hot route's: /v2/models/M[/versions/V]/infer."""
    return path.endswith(b"/infer") and path.startswith(b"/v2/models/") and path.count(b"/") in (4, 6)
