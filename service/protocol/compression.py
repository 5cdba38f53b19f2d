"""Compressed bodies: gzip and deflate, never beyond a limit, and only for as long as the client is there.

In: a body and its Content-Encoding.  Out: the bytes that were compressed; UnknownEncoding, BadRequest, or
TooLarge as soon as it is.
"""

import zlib
from collections.abc import Callable

from service.contract.bytes_like import Buffer
from service.errors import BadRequest, HungUp, TooLarge, UnknownEncoding
from service.isolation.gathered import Gathered

MAX_MEMBERS = 64
SLICE = 64 * 1024  # of compressed bytes
START_BYTES = 16 * 1024  # without content they take 4 ms of the event loop at most: empty blocks with tables
STEP = 64 * 1024  # decompressed at once: it stays in the cache, and keeping it holds no other thread up
_WINDOW_BITS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


class EndsTooEarly(BadRequest):
    """There is more to decompress, and no more bytes."""


def _is_wanted() -> bool:
    return True


def window_bits(encoding: bytes | None) -> int | None:
    """What zlib must be told for this encoding; None if there is nothing to decompress."""
    name = (encoding or b"").strip().lower()
    if name in (b"", b"identity"):
        return None
    if name not in _WINDOW_BITS:
        told = name.decode("latin-1")[:40]
        raise UnknownEncoding(f"content encoding '{told}' is not supported, only gzip and deflate")
    return _WINDOW_BITS[name]


def check_compressed(start: Buffer, bits: int) -> None:
    """Raise BadRequest unless a long body that begins with `start` decompresses to something at once."""
    start = start[:START_BYTES]
    try:
        decompress(start, bits, 0)
    except TooLarge:  # than nothing: it has content
        return
    except EndsTooEarly:
        told = f"its first {len(start)} bytes have no content"
        raise BadRequest(f"the body cannot be decompressed: {told}") from None


def decoded(
    body: Buffer, encoding: bytes | None, limit: int, is_wanted: Callable[[], bool] = _is_wanted
) -> Buffer:
    """A body as its Content-Encoding says; raises UnknownEncoding, BadRequest, TooLarge or HungUp."""
    bits = window_bits(encoding)
    return body if bits is None else decompress(body, bits, limit, is_wanted)


def decompress(body: Buffer, bits: int, limit: int, is_wanted: Callable[[], bool] = _is_wanted) -> Buffer:
    """Inflate a gzip or zlib stream; never more than `limit` bytes and one, HungUp once it is not wanted."""
    inflated = Gathered(limit + 1)
    members = at = 0
    view = memoryview(body)
    while at < len(view) or not members:
        members += 1
        if members > MAX_MEMBERS:
            raise BadRequest(f"the body has more than {MAX_MEMBERS} compressed members")
        stream = zlib.decompressobj(bits)
        rest: bytes | memoryview = b""
        while not stream.eof:
            if not rest:
                rest = view[at : at + SLICE]
                at += len(rest)
            if not rest:
                raise EndsTooEarly("the body cannot be decompressed: it ends too early")
            if not is_wanted():
                raise HungUp("the client hung up before its request was read")
            try:
                inflated.add(stream.decompress(rest, min(STEP, limit + 1 - inflated.num_bytes)))
            except zlib.error as error:
                raise BadRequest(f"the body cannot be decompressed: {error}") from None
            if inflated.num_bytes > limit:
                raise TooLarge(f"the body has more than {limit} bytes once decompressed")
            rest = stream.unconsumed_tail
        at -= len(stream.unused_data)
    return inflated.content
