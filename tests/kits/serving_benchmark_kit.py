"""A small HTTP server for the drivers of the serving benchmark, and answers that it may give."""

import asyncio
from collections.abc import Callable

import numpy as np

TOLERANCE = 1e-3
Answer = Callable[[bytes], tuple[int, bytes]]


async def serve(answer: Answer, *, closes: bool = False) -> asyncio.Server:
    """An HTTP/1.1 server that answers each body; with `closes`, one request per connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
                status, body = answer(await reader.readexactly(length))
                last = b"Connection: close\r\n" if closes else b""
                head = b"HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n" % (status, last, len(body))
                writer.write(head + body)
                await writer.drain()
                if closes:
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    return await asyncio.start_server(talk, "127.0.0.1", 0)


def right(body: bytes) -> tuple[int, bytes]:
    """The first two of the row's floats, as the samples' net answers."""
    return 200, b"head" + body[:8]


def of_row_0(body: bytes) -> tuple[int, bytes]:
    """The right answer to the first row, whatever the body."""
    return 200, np.array([0, 1], "<f4").tobytes()
