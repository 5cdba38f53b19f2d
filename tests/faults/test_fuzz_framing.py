"""Valid requests in every framing that HTTP/1.1 allows: each gets its own answer, in order.

A seeded generator mixes routes, lengths and chunks, extensions and trailers, pieces of any size, and bodies
that are refused before they are whole. `FOLDSERVE_FUZZ_CONNECTIONS=20000 pytest
tests/faults/test_fuzz_framing.py` runs it for long; the default is a few seconds.
"""

import gzip
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from service_kit import Server, serving
from wire_kit import INFER, Answer, get, post, wire, write_echo, x_body

NUM_CONNECTIONS = int(os.environ.get("FOLDSERVE_FUZZ_CONNECTIONS", "150"))
KB = 1024
SIZES = (
    0,
    1,
    50,
    3 * KB,
    70 * KB,
    300 * KB,
)  # of blanks in a body: below and above what is parsed or read at once
EXTENSIONS = (b"", b"", b";a", b";a=b", b';a="b c"')
TRAILERS = (b"", b"", b"x: y\r\n", b"x: y\r\nz: \r\n")


@dataclass(frozen=True)
class Expected:
    """An answer: its status, and its numbers if it has any."""

    status: int
    data: tuple[float, ...] = ()

    def is_in(self, answer: Answer) -> bool:
        return answer.status == self.status and (not self.data or tuple(answer.data) == self.data)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        write_echo(tmp_path_factory.mktemp("framing")), "--request-log", "off", "--max-body-mb", "1"
    ) as running:
        yield running


def framed(chance: random.Random, body: bytes, *headers: str, path: str) -> bytes:
    """A POST, by its length or in chunks of random sizes."""
    if chance.random() < 0.5:
        return post(body, *headers, path=path)
    content = bytearray(post(b"", *headers, "transfer-encoding: chunked", path=path, has_length=False))
    at = 0
    while at < len(body):
        part = body[at : at + chance.choice((1, 7, 1000, 64 * KB, len(body)))] if at < 100 else body[at:]
        content += b"%x%b\r\n%b\r\n" % (len(part), chance.choice(EXTENSIONS), part)
        at += len(part)
    return bytes(content + b"0\r\n" + chance.choice(TRAILERS) + b"\r\n")


def request(chance: random.Random) -> tuple[bytes, Expected]:
    """A request and its answer."""
    numbers = tuple(float(chance.randrange(100)) for _ in range(3))
    body = x_body(*numbers)
    blanks = b" " * chance.choice(SIZES)
    headers = ["upgrade: h2c", "connection: upgrade"] if chance.random() < 0.1 else []
    match chance.randrange(8):
        case 0:
            return get("/v2/health/live", *headers), Expected(200)
        case 1:
            return framed(chance, b"{}" + blanks, path="/v2/repository/index"), Expected(
                200 if len(blanks) < 128 * KB else 413
            )
        case 2:  # refused by its head, before its body
            return framed(chance, body + blanks, "content-encoding: br", path=INFER), Expected(415)
        case 3:
            return framed(chance, body + blanks, path="/v2/models/nope/infer"), Expected(404)
        case 4:  # refused by its start, if it is long
            return framed(chance, b"[" + blanks, path=INFER), Expected(400)
        case 5:
            packed = gzip.compress(body + blanks, 1)
            return framed(chance, packed, "content-encoding: gzip", path=INFER), Expected(200, numbers)
        case _:
            return framed(chance, body + blanks, *headers, path=INFER), Expected(200, numbers)


def one_connection(port: int, seed: int, seen: Counter[int]) -> None:
    """Send some requests in pieces while their answers are read; raises AssertionError for a wrong one."""
    chance = random.Random(seed)
    requests = [request(chance) for _ in range(chance.randint(1, 8))]
    content = b"".join(sent for sent, _ in requests)
    with wire(port) as line:

        def send() -> None:
            at = 0
            while at < len(content):
                size = chance.choice((1, 10, 1500, 20_000, 70_000, len(content)))
                line.sock.sendall(content[at : at + size])
                at += size

        sending = threading.Thread(target=send)
        sending.start()
        for number, (_, expected) in enumerate(requests):
            answer = line.read()
            assert expected.is_in(answer), f"seed {seed}, request {number}: {expected}, got {answer}"
            seen[answer.status] += 1
        sending.join()


def test_each_request_gets_its_own_answer(server: Server) -> None:
    seen: Counter[int] = Counter()
    for seed in range(NUM_CONNECTIONS):
        one_connection(server.port, seed, seen)
    assert set(seen) == {200, 400, 404, 413, 415}
