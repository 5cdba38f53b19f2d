"""The hot route under another HTTP server: ASGI messages in, the same exchange, ASGI messages out.

In: the scope, `receive` and `send` of a request.  Out: the answer that our own server would write.

The host parses HTTP, keeps connections and has time-outs; `DirectExchange` and the endpoint do not know it.
What they write comes to a `HostedChannel`, which takes the head apart again.
"""

import asyncio
from urllib.parse import quote

from service.http.channel import Channel
from service.http.direct import DirectExchange
from service.http.exchange import no_room
from service.http.parser import Head
from service.http.reply import Receive, Scope, Send
from service.http.shared import Shared

_END = b"\r\n\r\n"


class HostedChannel(Channel):
    """Collects what one exchange writes; `whole` is done when the answer is."""

    def __init__(self, shared: Shared, peer: str) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._shared = shared
        self._peer = peer
        self._left = 0  # bytes of the body that are still to come
        self._counted_bytes = 0  # of shared.inflight_bytes

    def send(self, content: bytes) -> None:
        if not self.status:
            head, _, content = content.partition(_END)
            first, *lines = head.split(b"\r\n")
            self.status = int(first[9:12])
            for line in lines:
                name, _, value = line.partition(b": ")
                self.headers.append((name, value))
                if name == b"content-length":
                    self._left = int(value)
        if content:
            self.parts.append(content)
            self._left -= len(content)
        if self._left <= 0 and not self.whole.done():
            self.whole.set_result(None)

    def write(self, content: bytes) -> None:
        self.send(content)

    def close(self) -> None:
        """The host closes: the answer's head says `connection: close`."""

    def answered(self, *, keeps_alive: bool) -> None:
        """Nothing waits behind this request."""

    def body_taken(self) -> None:
        """The host asks for more of the body by itself."""

    def take_turn(self) -> bool:
        return False

    def peer(self) -> str:
        return self._peer

    async def wait_until_writable(self) -> None:
        """The host's `send` waits."""

    def hold(self, num_bytes: int) -> bool:
        """Count `num_bytes` as in flight instead of what was counted before; False if that is too much."""
        shared = self._shared
        counted_bytes = max(0, num_bytes - shared.limits.free_bytes)
        grows = counted_bytes > self._counted_bytes
        shared.inflight_bytes += counted_bytes - self._counted_bytes
        self._counted_bytes = counted_bytes
        return not grows or shared.inflight_bytes <= shared.limits.max_inflight_bytes


async def answer_hosted(shared: Shared, head: Head, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a POST to an inference route; returns when the answer is sent, or the client has gone.

    `head` is the scope's, made by `head_of`.
    """
    client = scope.get("client")
    channel = HostedChannel(shared, client[0] if client else "")
    exchange = DirectExchange(channel, shared, head)
    try:
        exchange.begin()
        while not exchange.is_whole and not exchange.is_answered:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if part := message.get("body", b""):
                exchange.add(bytes(part))
                if not channel.hold(exchange.held_bytes) and not exchange.is_answered:
                    exchange.keep_alive = False
                    exchange.refuse(no_room())
            if not message.get("more_body", False):
                exchange.finish()
        shared.outbox.flush()
        if not channel.whole.done():
            await _answered_or_gone(channel.whole, receive)
            if not channel.whole.done():
                return
        await _send(channel, send, has_connection=not scope.get("http_version", "1.1").startswith(("2", "3")))
    finally:
        # Gone, or cancelled by a host that ends: rows that no client waits for leave the queue.
        if not exchange.is_answered:
            exchange.hang_up()
        channel.hold(0)


async def _answered_or_gone(whole: "asyncio.Future[None]", receive: Receive) -> None:
    watching = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((whole, watching), return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(channel: HostedChannel, send: Send, *, has_connection: bool) -> None:
    parts = channel.parts
    channel.hold(sum([len(part) for part in parts]))
    headers = channel.headers
    if not has_connection:  # HTTP/2 and 3 forbid the header
        headers = [pair for pair in headers if pair[0] != b"connection"]
    await send({"type": "http.response.start", "status": channel.status, "headers": headers})
    last = parts.pop() if parts else b""
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": last})


def head_of(scope: Scope) -> Head:
    """The head of a request as our own parser makes it; its path is the one below the host's root path."""
    headers = list(scope["headers"])
    length = 0
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            length = int(value[:18])
        elif name == b"transfer-encoding":
            length = -1
    path: bytes = scope.get("raw_path") or quote(scope["path"], safe="/").encode()
    root = quote(scope.get("root_path", ""), safe="/").encode()
    path = path.removeprefix(root)
    return Head(
        scope["method"].encode(),
        path,
        headers,
        length=length,
        expects_continue=False,  # a host answers that when the body is first asked for
        is_http_1_0=False,
        keep_alive=True,
        num_bytes=len(path) + sum([len(name) + len(value) for name, value in headers]),
    )
