"""HTTP/1.1 on a socket: an asyncio protocol of our own, on httptools.

In: what asyncio, the clock and the server's end tell a connection.  Out: bytes for its `Pipeline`, which
makes requests of them; refusals of what is too much or stops arriving; the end.
"""

import asyncio
import socket
import time
from typing import Any

from service.errors import Draining
from service.http.exchange import no_room
from service.http.pipeline import TURN_S, Pipeline
from service.http.reply import CONTINUE

SLICE = 8 * 1024  # parsed at once: pipelined requests are objects, of many times their bytes
TURN = 64 * 1024  # received at once: the transport would go on for 8 MB, while other clients wait
DISCARD_EVERY_S = 0.002  # a read of what a refused client still sends: all at once would cost what it wants
PROBE_S = 0.05  # until the answer to a probe is looked for


class Connection(Pipeline):
    """One connection. asyncio needs the methods of a protocol, not its class."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        limits = self._shared.limits
        transport.set_write_buffer_limits(high=limits.max_pending_bytes)
        num_open = len(self._shared.connections)
        is_full = num_open >= limits.max_connections and not self._shared.close_longest_idle()
        self._shared.connections[self] = None
        if num_open >= 2 * limits.max_connections:  # so many are being refused: no more words
            transport.abort()
        elif is_full:
            limit = f"{limits.max_connections} connections are open (FOLDSERVE_MAX_CONNECTIONS)"
            self._refuse(503, f"{limit}; try again")

    def data_received(self, data: bytes) -> None:
        flow = self._flow
        if len(data) >= TURN and not flow.rests:
            flow.rests = True
            if flow.lingers_since_s >= 0:
                asyncio.get_running_loop().call_later(DISCARD_EVERY_S, self._ask_for_turn)
            else:
                self._ask_for_turn()
            self._update_reading()
        if flow.is_last:
            return
        if flow.incoming is not None:
            flow.heard_s = self._shared.now_s
        # A body of known length costs a copy, however long it is.
        if not flow.unparsed and (len(data) <= SLICE or len(data) <= self._parser.body_left):
            self._feed(data)
            if flow.waiting and flow.may_advance:
                self._ask_for_turn()
            self._update_reading()
        else:
            flow.unparsed += data
            self._parse(time.perf_counter() + TURN_S)
        shared = self._shared
        if self._counted_bytes and shared.inflight_bytes > shared.limits.max_inflight_bytes:
            self._refuse_for_room()

    def eof_received(self) -> bool:
        """The client sends no more, or has gone: TCP cannot tell. True keeps the connection open."""
        flow = self._flow
        flow.is_at_eof = flow.is_last = True
        broken, flow.incoming = flow.incoming, None
        if broken is not None and flow.waiting:
            flow.waiting.pop()
        elif broken is not None and broken is flow.current:
            flow.current = None
            broken.hang_up()
        last = flow.waiting[-1] if flow.waiting else flow.current
        if last is None or not self._transport.can_write_eof():  # a connection with TLS has no half
            return False
        last.keep_alive = False
        if flow.current is not None and flow.current.can_probe:
            # One that has gone answers with a reset, and its rows are not worth a batch. One that still
            # listens skips an interim response (RFC 9110, 15.2).
            self.write(CONTINUE)
            asyncio.get_running_loop().call_later(PROBE_S, self._close_if_reset)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        flow = self._flow
        self._shared.connections.pop(self, None)
        self._shared.inflight_bytes -= self._counted_bytes
        self._counted_bytes = 0
        gone = list(flow.waiting) if flow.current is None else [flow.current, *flow.waiting]
        flow.is_last, flow.unparsed = True, b""
        flow.current = flow.incoming = None
        flow.waiting.clear()
        for exchange in gone:
            exchange.hang_up()
        self._wake_writer()
        self._parser.close()

    def pause_writing(self) -> None:
        self._flow.is_write_paused = True
        self._update_reading()

    def resume_writing(self) -> None:
        self._flow.is_write_paused = False
        self._wake_writer()
        self._advance()

    @property
    def usefulness(self) -> tuple[bool, float]:
        """Whether it has ever been answered on, and when it was last used, to a second."""
        return self._flow.written_bytes > 0, self._flow.heard_s

    @property
    def is_unused(self) -> bool:
        """Whether nothing is due on it, and no request has begun to arrive."""
        flow = self._flow
        return flow.is_idle and flow.head_bytes == 0 and flow.incoming is None and not flow.is_last

    def close_if_unused(self) -> bool:
        """Close it for the sake of another, and say whether that was done."""
        if not self.is_unused or self._transport.is_closing():
            return False
        self._transport.close()
        return True

    def close_if_idle(self, now_s: float) -> None:
        """Close what takes too long; called every second, which is cheaper than timers."""
        flow = self._flow
        if flow.is_write_overdue(now_s, self._transport.get_write_buffer_size()):
            self._transport.abort()
        elif self._transport.is_closing():
            return
        elif flow.is_at_eof:
            self._close_if_reset()
        elif flow.lingers_since_s >= 0:
            if now_s - flow.lingers_since_s >= self._shared.limits.linger_s:
                self._transport.close()
        elif (reason := flow.overdue(now_s)) == "":
            self._transport.close()
        elif reason is not None:
            self._refuse(408, reason)

    def close_when_answered(self) -> None:
        """The server ends: close once the client is due nothing."""
        self._shared.outbox.flush()
        if self._flow.is_idle:
            self._transport.close()

    def fail_pending(self) -> None:
        """The server ends: what was not answered in time gets its error."""
        if self._flow.current is not None:
            self._flow.current.fail(Draining("the server shut down before the request was answered"))

    def abort(self) -> None:
        """Close at once, whatever has not left."""
        self._transport.abort()

    def _refuse_for_room(self) -> None:
        """All connections hold too much, and this one has just asked for more."""
        exchange = self._flow.incoming
        if exchange is not None and exchange.has_turn and not exchange.is_answered:
            exchange.keep_alive = False
            exchange.refuse(no_room())  # its route counts it
        elif exchange is not None:
            self._refuse(503, str(no_room()))

    def _close_if_reset(self) -> None:
        if self._transport.is_closing():
            return
        if self._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
