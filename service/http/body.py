"""The body of a request, read whole and never beyond the limit.

In: the ASGI messages.  Out: bytes, decompressed if the client compressed them; TooLarge as soon as it is.

Little that was compressed is inflated at once. What becomes more than 1 MiB waits for its turn and for
memory: one is inflated at a time, and only a few are held, for 60 kB can become 60 MB.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

from service.contract.bytes_like import Buffer
from service.errors import HungUp, TooLarge
from service.http.connected import while_connected
from service.http.limits import START_BYTES
from service.http.reply import Receive
from service.isolation.capacity import Capacity, Lease
from service.isolation.gathered import Gathered
from service.protocol.compression import check_compressed, decompress, window_bits

LIGHT_BYTES = 1 << 20  # of a compressed body, as sent and once decompressed
MAX_HEAVY = 2  # decompressed bodies that are held at once


def _accept(start: bytes) -> None:
    """Nothing is known of such bodies."""


class Body:
    """What a client sent; the memory of a heavy one is counted until `end`."""

    def __init__(self, content: Buffer, lease: Lease | None = None) -> None:
        self.content = content
        self._lease = lease

    def take(self) -> Buffer:
        """Its content, which the body keeps no longer; a heavy one still counts until `end`."""
        content, self.content = self.content, b""
        return content

    def end(self) -> None:
        """The body is not needed any more."""
        self.content = b""
        if self._lease is not None:
            self._lease.end()


class BodyReader:
    """Reads the bodies of one route, of at most `limit` bytes; belongs to one event loop."""

    def __init__(self, threads: Executor, limit: int) -> None:
        self._threads = threads
        self._limit = limit
        self._capacity = Capacity(MAX_HEAVY, MAX_HEAVY * limit)
        self._heavy_thread = ThreadPoolExecutor(1, thread_name_prefix="inflate")

    async def read(
        self,
        receive: Receive,
        declared: bytes | None,
        encoding: bytes | None,
        check_start: Callable[[bytes], None] = _accept,
    ) -> Body:
        """The whole body; `declared` and `encoding` are the request's Content-Length and Content-Encoding.

        `check_start` is called with the first 64 KiB of a longer body that is not compressed, and may raise.
        Raises TooLarge, BadRequest, UnknownEncoding or HungUp.
        """
        limit = self._limit
        num_expected = None
        if declared is not None and declared.isdigit():
            if len(declared) > 18 or int(declared) > limit:
                raise TooLarge(f"the body has {declared.decode()[:20]} bytes, at most {limit} are allowed")
            num_expected = int(declared)
        bits = window_bits(encoding)
        if bits is not None:
            check_start = partial(check_compressed, bits=bits)
        body = await receive_all(receive, limit, check_start, num_expected)
        return Body(body) if bits is None else await while_connected(receive, self._inflated(body, bits))

    async def _inflated(self, body: Buffer, bits: int) -> Body:
        if len(body) <= LIGHT_BYTES < self._limit:
            try:
                return Body(await _in_thread(self._threads, body, bits, LIGHT_BYTES))
            except TooLarge:
                pass
        lease = await self._capacity.lease(self._limit)
        try:
            return Body(await _in_thread(self._heavy_thread, body, bits, self._limit), lease)
        except BaseException:
            lease.end()
            raise


async def _in_thread(threads: Executor, body: Buffer, bits: int, limit: int) -> Buffer:
    is_wanted = True
    try:
        return await asyncio.get_running_loop().run_in_executor(
            threads, decompress, body, bits, limit, lambda: is_wanted
        )
    finally:
        is_wanted = False  # cancelled: the thread sees it before the next step


async def receive_all(
    receive: Receive,
    limit: int,
    check_start: Callable[[bytes], None] = _accept,
    num_expected: int | None = None,
) -> Buffer:
    """A whole body as sent, of at most `limit` bytes; raises TooLarge as soon as it has more, or HungUp.

    `check_start` is that of `BodyReader.read`; `num_expected` bytes are declared, if it is known.
    """
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        only: bytes = message.get("body", b"")
        _check_size(len(only), limit)
        return only
    body = Gathered(limit if num_expected is None else num_expected)
    while message["type"] == "http.request":
        lacks_start = body.num_bytes < START_BYTES
        body.add(message.get("body", b""))
        _check_size(body.num_bytes, limit)
        if not message.get("more_body"):
            return body.content
        if lacks_start and body.num_bytes >= START_BYTES:
            check_start(bytes(body.content[:START_BYTES]))
        message = await receive()
    raise HungUp("the client hung up before its request was complete")


def _check_size(num_bytes: int, limit: int) -> None:
    if num_bytes > limit:
        raise TooLarge(f"the body has more than {limit} bytes")
