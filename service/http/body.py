"""The body of a request, read whole and never beyond the limit.

In: the ASGI messages.  Out: bytes, decompressed if the client compressed them; TooLarge as soon as it is.
"""

import asyncio
import zlib

from service.errors import BadRequest, HungUp, TooLarge, UnknownEncoding
from service.http.reply import Receive

Buffer = bytes | bytearray

MAX_MEMBERS = 64  # each copies what is left of the body, so many would cost its square
_WINDOW_BITS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


async def read_body(receive: Receive, declared: bytes | None, encoding: bytes | None, limit: int) -> Buffer:
    """The whole body; `declared` and `encoding` are the request's Content-Length and Content-Encoding."""
    if declared is not None and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise TooLarge(f"the body has {declared.decode()[:20]} bytes, at most {limit} are allowed")
    bits = _window_bits(encoding)
    body = await _receive_all(receive, limit)
    return body if bits is None else await asyncio.to_thread(decompress, body, bits, limit)


def decoded(body: Buffer, encoding: bytes | None, limit: int) -> Buffer:
    """A body as its Content-Encoding says; raises UnknownEncoding, BadRequest or TooLarge."""
    bits = _window_bits(encoding)
    return body if bits is None else decompress(body, bits, limit)


def _window_bits(encoding: bytes | None) -> int | None:
    """What zlib must be told for this encoding; None if there is nothing to decompress."""
    name = (encoding or b"").strip().lower()
    if name in (b"", b"identity"):
        return None
    if name not in _WINDOW_BITS:
        told = name.decode("latin-1")[:40]
        raise UnknownEncoding(f"content encoding '{told}' is not supported, only gzip and deflate")
    return _WINDOW_BITS[name]


async def _receive_all(receive: Receive, limit: int) -> Buffer:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        only: bytes = message.get("body", b"")
        return _within(only, limit)
    body = bytearray()
    while message["type"] == "http.request":
        body += message.get("body", b"")
        _within(body, limit)
        if not message.get("more_body"):
            return body
        message = await receive()
    raise HungUp("the client hung up before its request was complete")


def decompress(body: Buffer, window_bits: int, limit: int) -> bytes:
    """Inflate a gzip or zlib stream; never more than `limit` bytes and one."""
    parts: list[bytes] = []
    members = 0
    num_bytes = 0
    rest = bytes(body)
    while rest or not parts:
        members += 1
        if members > MAX_MEMBERS:
            raise BadRequest(f"the body has more than {MAX_MEMBERS} compressed members")
        stream = zlib.decompressobj(window_bits)
        try:
            part = stream.decompress(rest, limit + 1 - num_bytes)
        except zlib.error as error:
            raise BadRequest(f"the body cannot be decompressed: {error}") from None
        parts.append(part)
        num_bytes += len(part)
        if num_bytes > limit:
            raise TooLarge(f"the body has more than {limit} bytes once decompressed")
        if not stream.eof:
            raise BadRequest("the body cannot be decompressed: it ends too early")
        rest = stream.unused_data
    return b"".join(parts)


def _within(body: Buffer, limit: int) -> Buffer:
    if len(body) > limit:
        raise TooLarge(f"the body has more than {limit} bytes")
    return body
