"""The body of a request, read whole and never beyond the limit.

In: the ASGI messages.  Out: bytes, decompressed if the client compressed them; TooLarge as soon as it is.
"""

import asyncio

from service.errors import HungUp, TooLarge
from service.http.connected import while_connected
from service.http.reply import Receive
from service.protocol.compression import Buffer, decompress, window_bits


async def read_body(receive: Receive, declared: bytes | None, encoding: bytes | None, limit: int) -> Buffer:
    """The whole body; `declared` and `encoding` are the request's Content-Length and Content-Encoding."""
    if declared is not None and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise TooLarge(f"the body has {declared.decode()[:20]} bytes, at most {limit} are allowed")
    bits = window_bits(encoding)
    body = await _receive_all(receive, limit)
    return body if bits is None else await while_connected(receive, _inflated(body, bits, limit))


async def _inflated(body: Buffer, bits: int, limit: int) -> Buffer:
    is_wanted = True
    try:
        return await asyncio.to_thread(decompress, body, bits, limit, lambda: is_wanted)
    finally:
        is_wanted = False  # cancelled: the thread sees it before the next slice


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


def _within(body: Buffer, limit: int) -> Buffer:
    if len(body) > limit:
        raise TooLarge(f"the body has more than {limit} bytes")
    return body
