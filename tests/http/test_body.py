"""Bodies of /predict: read whole, inflated in steps, one heavy one at a time, and few of them held."""

import asyncio
import gzip
import random
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import HungUp, TooLarge
from service.http.body import LIGHT_BYTES, MAX_HEAVY, BodyReader
from service.http.reply import Message
from service.protocol import compression
from service.protocol.compression import decompress

HEAVY = gzip.compress(bytes(2 * LIGHT_BYTES))
LIMIT = 4 * LIGHT_BYTES


class Client:
    """ASGI's receive: a body in parts, then silence until it hangs up."""

    def __init__(self, *parts: bytes) -> None:
        last = len(parts) - 1
        self._messages: list[Message] = [
            {"type": "http.request", "body": part, "more_body": index < last}
            for index, part in enumerate(parts)
        ]
        self.has_gone = asyncio.Event()

    async def __call__(self) -> Message:
        if self._messages:
            return self._messages.pop(0)
        await self.has_gone.wait()
        return {"type": "http.disconnect"}


def reader(limit: int = LIMIT) -> BodyReader:
    return BodyReader(ThreadPoolExecutor(1), limit)


@pytest.mark.parametrize("encoding", [None, b"gzip", b"deflate"])
@pytest.mark.parametrize("size", [0, 1000, 3 * LIGHT_BYTES, LIMIT])
async def test_a_body_is_read_whole(encoding: bytes | None, size: int) -> None:
    content = random.Random(1).randbytes(min(size, 1000)) * (size // 1000) + bytes(size % 1000)
    make = {None: bytes, b"gzip": gzip.compress, b"deflate": zlib.compress}[encoding]
    sent = make(content)
    body = await reader().read(Client(sent[:100], sent[100:]), None, encoding)
    assert bytes(body.content) == content
    body.end()
    assert not body.content


async def test_heavy_bodies_wait_for_memory_and_light_ones_do_not() -> None:
    bodies = reader()
    held = [await bodies.read(Client(HEAVY), None, b"gzip") for _ in range(MAX_HEAVY)]
    waiting = asyncio.ensure_future(bodies.read(Client(HEAVY), None, b"gzip"))
    light = await bodies.read(Client(gzip.compress(b"a")), None, b"gzip")
    assert (light.content, waiting.done()) == (b"a", False)
    held[0].end()
    assert len((await waiting).content) == 2 * LIGHT_BYTES


async def test_what_a_refused_or_departed_client_took_comes_back() -> None:
    bodies = reader()
    for _ in range(2 * MAX_HEAVY):
        with pytest.raises(TooLarge, match="once decompressed"):
            await bodies.read(Client(gzip.compress(bytes(LIMIT + 1))), None, b"gzip")
    held = [await bodies.read(Client(HEAVY), None, b"gzip") for _ in range(MAX_HEAVY)]
    client = Client(HEAVY)
    waiting = asyncio.ensure_future(bodies.read(client, None, b"gzip"))
    await asyncio.sleep(0)
    client.has_gone.set()
    with pytest.raises(HungUp):
        await waiting
    for body in held:
        body.end()
    assert [len((await bodies.read(Client(HEAVY), None, b"gzip")).content) for _ in range(MAX_HEAVY)]


def compressed(members: Iterable[bytes]) -> bytes:
    return b"".join(map(gzip.compress, members))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.integers(1, 40), st.integers(1, 40))
def test_steps_and_slices_change_nothing(members: list[bytes], step: int, slice_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "STEP", step)
        patch.setattr(compression, "SLICE", slice_bytes)
        body, whole = compressed(members), b"".join(members)
        assert decompress(body, 31, len(whole)) == whole
        if whole:
            with pytest.raises(TooLarge):
                decompress(body, 31, len(whole) - 1)


def test_no_step_is_longer_than_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    class Stream:
        def __init__(self, bits: int) -> None:
            self._inner: Any = inflater(bits)

        def decompress(self, data: bytes, limit: int) -> bytes:
            inflated: bytes = self._inner.decompress(data, limit)
            steps.append(len(inflated))
            return inflated

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    inflater = zlib.decompressobj
    monkeypatch.setattr(compression.zlib, "decompressobj", Stream)
    assert decompress(HEAVY, 31, LIMIT) == bytes(2 * LIGHT_BYTES)
    assert max(steps) <= compression.STEP
