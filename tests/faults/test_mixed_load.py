"""Clients of every kind at once, a tenth of whom hang up: every answer is right, and nothing is left.

`FOLDSERVE_MIXED_REQUESTS=300000 pytest tests/faults/test_mixed_load.py` runs it for long; the default is a
few seconds.  The same seed asks for the same.
"""

import asyncio
import gzip
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service_kit import ROOT, Server, binary_body, read_answer, resident_mb, serving
from tiny_nets import digits_net, write_bundle
from wire_kit import get, post

NUM_REQUESTS = int(os.environ.get("FOLDSERVE_MIXED_REQUESTS", "2000"))
NUM_CLIENTS = 16
GROWTH_MB = 60
INFER = "/v2/models/digits/infer"
NET = digits_net()
ROWS = NET.rows(64, seed=1)["input"]
(LOGITS,) = NET.truth({"input": ROWS}).values()
SEVEN = (ROOT / "docs" / "seven.png").read_bytes()

Check = Callable[[int, dict[str, str], bytes], bool]
Asked = tuple[bytes, Check]


def is_right(begin: int, count: int) -> Check:
    """Whether an answer holds the logits of these rows."""

    def check(status: int, headers: dict[str, str], body: bytes) -> bool:
        if status != 200:
            return status == 503  # the queue is full
        (logits,) = read_answer(headers, body)[1].values()
        return bool(np.abs(logits - LOGITS[begin : begin + count]).max() < NET.tolerance)

    return check


def has_status(expected: int) -> Check:
    return lambda status, headers, body: status == expected


def document(begin: int, count: int, **tensor: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "input", "shape": [count, 1, 28, 28], "datatype": "FP32", **tensor}]}


def binary(chance: random.Random) -> Asked:
    count = chance.choice((1, 2, 5, 8))
    begin = chance.randrange(64 - count)
    rows = ROWS[begin : begin + count].astype("<f4").tobytes()
    told = document(begin, count, parameters={"binary_data_size": len(rows)})
    body, headers = binary_body({**told, "parameters": {"binary_data_output": True}}, rows)
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return post(body, *lines, path=INFER), is_right(begin, count)


def in_json(chance: random.Random) -> Asked:
    count = chance.choice((1, 2))
    begin = chance.randrange(64 - count)
    text = json.dumps(document(begin, count, data=ROWS[begin : begin + count].ravel().tolist())).encode()
    if chance.random() < 0.3:
        return post(gzip.compress(text), "content-encoding: gzip", path=INFER), is_right(begin, count)
    if chance.random() < 0.1:
        text += b" " * 200_000  # read in a process
    return post(text, path=INFER), is_right(begin, count)


def other(chance: random.Random) -> Asked:
    wrong = document(0, 1, data=[1])
    return chance.choice(
        [
            (post(b"{", path=INFER), has_status(400)),
            (post(json.dumps(wrong).encode(), path=INFER), has_status(400)),
            (post(b"{}", path="/v2/models/nope/infer"), has_status(404)),
            (post(b"{}", "content-encoding: br", path=INFER), has_status(415)),
            (post(b"{}", "inference-header-content-length: -5", path=INFER), has_status(400)),
            (get("/v2/models/digits"), has_status(200)),
            (get("/v2/health/ready"), has_status(200)),
            (get("/nope"), has_status(404)),
            (post(SEVEN, path="/predict"), has_status(200)),
            (post(gzip.compress(SEVEN), "content-encoding: gzip", path="/predict"), has_status(200)),
            (post(b"abc", path="/predict"), has_status(400)),
        ]
    )


KINDS = (binary, binary, binary, in_json, other)


class Client:
    """One connection at a time, which asks again and again."""

    def __init__(self, port: int, chance: random.Random, left: Iterator[int]) -> None:
        self._port = port
        self._chance = chance
        self._left = left
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Ask until there are no requests left."""
        while next(self._left, None) is not None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
            try:
                while await self._ask(reader, writer):
                    if next(self._left, None) is None:
                        break
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request, or several in a pipeline; False if the client has hung up in the middle."""
        chance = self._chance
        asked = [chance.choice(KINDS)(chance) for _ in range(chance.choice((1, 1, 1, 4)))]
        content = b"".join(request for request, _ in asked)
        if chance.random() < 0.1:
            writer.write(content[: chance.choice((len(content), chance.randrange(len(content))))])
            await asyncio.sleep(chance.choice((0, 0.0003, 0.003)))
            self.counts["hung up"] += 1
            if chance.random() < 0.5:
                writer.transport.abort()
            return False
        writer.write(content)
        for request, check in asked:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(head[0].split(" ")[1])
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.counts[str(status)] += 1
            if not check(status, headers, body):
                self.wrong.append(f"{status} {body[:200]!r} for {request[:60]!r}")
        return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models: Path = tmp_path_factory.mktemp("models")
    write_bundle(models / "digits" / "1", NET)
    with serving(models, "--request-log", "off") as running:
        yield running


@pytest.mark.timeout(0)
async def test_every_answer_is_right_and_memory_returns(server: Server) -> None:
    async def ask(seed: int, num_requests: int) -> list[Client]:
        left = iter(range(num_requests))
        port = server.port
        clients = [Client(port, random.Random(seed + index), left) for index in range(NUM_CLIENTS)]
        await asyncio.gather(*(client.run() for client in clients))
        return clients

    await ask(1, NUM_REQUESTS // 4)  # what grows once
    before = resident_mb(server)
    clients = await ask(2, NUM_REQUESTS)
    assert [wrong for client in clients for wrong in client.wrong] == []
    counts = sum((client.counts for client in clients), Counter())
    assert {"200", "400", "404", "415", "hung up"} <= set(counts)
    assert resident_mb(server) - before < GROWTH_MB
