"""Heavy requests are read in a process, and answered as if they had been read at once.

A request becomes heavy here by 200 kB of blanks: its answer must be the same as without them.
"""

import asyncio
import gzip
import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from benchmarks.attacks.processes import children_of
from in_process_kit import Inside, inside
from service.contract.bytes_like import Buffer
from service.isolation.child import Answer
from service.isolation.pool import ProcessPool
from service.isolation.process import IsolatedProcess
from service.protocol.child import READ, REFUSED, expected_json
from service.protocol.signature import Signature
from service_kit import binary_body, wait_until, x_request
from tiny_nets import digits_net, echo_net, pair_net, write_bundle
from wire_kit import post

BLANKS = " " * 200_000
PAIR = [
    {"name": "b", "shape": [2, 2, 2], "datatype": "INT64", "data": [[[1, 2], [3, 2**62]], [[5, 6], [7, 8]]]},
    {"name": "a", "shape": [2, 2, 2], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6, 7, 1e-7]},
]
ECHO = "/v2/models/echo/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    models = tmp_path_factory.mktemp("models")
    write_bundle(models / "echo" / "1", echo_net("float32"))
    write_bundle(models / "flags" / "1", echo_net("bool"))
    write_bundle(models / "pair" / "1", pair_net())
    write_bundle(models / "digits" / "1", digits_net())
    with inside(models, "--max-body-mb", "4") as running:
        yield running


def ask(server: Inside, model: str, content: bytes, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and content of an answer; JSON is parsed."""
    url = f"{server.url}/v2/models/{model}/infer"
    answer = httpx.post(url, content=content, headers=headers, timeout=60)
    is_json = answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json() if is_json else answer.content


@pytest.mark.parametrize(
    ("model", "document"),
    [
        ("echo", x_request([1, 2.5, -3e-9], id='a "b" \ud7ff', parameters={"timeout": 10**7, "priority": 3})),
        ("echo", x_request([[1, 2, 3], [4, 5, 6]], shape=[2, 3], parameters={"binary_data_output": True})),
        ("echo", x_request([], shape=[0, 3])),
        ("flags", x_request([True, False, True], "BOOL")),
        ("pair", {"inputs": PAIR}),
        ("pair", {"inputs": PAIR, "outputs": [{"name": "sum"}, {"name": "product"}]}),
        ("pair", {"inputs": PAIR, "outputs": [{"name": "sum", "parameters": {"binary_data": True}}]}),
        ("echo", x_request([1, 2, 3], outputs=[{"name": "y", "parameters": {"classification": 2}}])),
        ("echo", x_request([1, 2])),
        ("echo", x_request([1, 2, 1e300])),
        ("echo", x_request([1, 2, 3], id=7)),
        ("echo", x_request([1, 2, 3], id="x" * 70_000)),
        ("echo", x_request([1, 2, 3], parameters={"timeout": -1})),
        ("echo", {"inputs": []}),
        ("echo", []),
    ],
)
def test_the_answer_is_the_same(server: Inside, model: str, document: Any) -> None:
    text = json.dumps(document)
    light, heavy = text.encode(), (text[:-1] + BLANKS + text[-1]).encode()
    expected = ask(server, model, light)
    assert ask(server, model, heavy) == expected
    assert ask(server, model, gzip.compress(heavy), {"content-encoding": "gzip"}) == expected


def test_bytes_after_heavy_json_are_read_too(server: Inside) -> None:
    document = {"inputs": [{**PAIR[0]}, {**PAIR[1]}]}
    del document["inputs"][1]["data"]
    document["inputs"][1]["parameters"] = {"binary_data_size": 32}
    body, headers = binary_body({**document, "id": "i"}, bytes(32))
    length = int(headers["Inference-Header-Content-Length"])
    heavy = body[: length - 1] + BLANKS.encode() + body[length - 1 :]
    expected = ask(server, "pair", body, headers)
    assert expected[0] == 200
    headers = {"Inference-Header-Content-Length": str(length + len(BLANKS))}
    assert ask(server, "pair", heavy, headers) == expected


def test_much_that_was_compressed_is_read_in_a_process(server: Inside) -> None:
    headers = {"content-encoding": "gzip"}
    body = json.dumps(x_request([1, 2, 3])).encode()
    assert ask(server, "echo", gzip.compress(body + b" " * (3 << 20)), headers)[0] == 200
    status, answer = ask(server, "echo", gzip.compress(body + b" " * (4 << 20)), headers)
    assert (status, "once decompressed" in answer["error"]) == (413, True)
    status, answer = ask(server, "echo", os.urandom(2 << 20), headers)
    assert (status, "cannot be decompressed" in answer["error"]) == (400, True)


async def test_its_process_ends_with_a_client_that_hangs_up(
    server: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(server, "echo", json.dumps(x_request([1, 2, 3])).encode() + BLANKS.encode())
    before = set(children_of(os.getpid()))

    async def never(self: IsolatedProcess, *_: object) -> Answer:
        self.is_usable = False
        return await asyncio.Future()

    monkeypatch.setattr(IsolatedProcess, "ask", never)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post(json.dumps(x_request([1, 2, 3])).encode() + BLANKS.encode()))
    heavy = server.service.heavy._processes
    await asyncio.to_thread(wait_until, lambda: bool(heavy._borrowed), "it is being read")
    writer.close()
    lost = before.difference
    await asyncio.to_thread(wait_until, lambda: len(lost(children_of(os.getpid()))) == 1, "it is gone")
    assert not heavy._borrowed


async def test_a_part_is_let_go_once_its_process_has_it() -> None:
    pool = ProcessPool("service.protocol.child", 30)
    expected = expected_json(
        Signature(name="m", version="1", inputs={}, outputs={}, max_rows=1), None, None, 9
    )
    parts: list[Buffer] = [expected, bytearray(b" " * (3 << 20))]
    try:
        async with pool.borrow() as process:
            kind, text, status = await process.ask(parts, 64 << 20, 1000)
        assert (kind, b"is not JSON" in text, status, parts) == (REFUSED, True, 400, [])
    finally:
        await pool.close()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((READ, b"{}", 2), 400),
        ((READ, b"{}", 2**31), 400),
        ((READ, b"{", 0), 400),
        ((REFUSED, b"no", 200), 500),
        ((b"?", b"\xff", 413), 413),
    ],
)
def test_a_process_that_was_taken_over_is_not_believed(
    server: Inside, monkeypatch: pytest.MonkeyPatch, answer: Answer, status: int
) -> None:
    async def lying(self: IsolatedProcess, *_: object) -> Answer:
        return answer

    monkeypatch.setattr(IsolatedProcess, "ask", lying)
    assert ask(server, "echo", json.dumps(x_request([1, 2, 3])).encode() + BLANKS.encode())[0] == status
