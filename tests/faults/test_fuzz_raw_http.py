"""Broken HTTP from a seeded generator: every answer is a whole one below 500, and the next client is served.

`FOLDSERVE_FUZZ_REQUESTS=1000000 pytest tests/faults/test_fuzz_raw_http.py` runs it for long; the default is a
few seconds.  A failure names its seed: the same seed sends the same bytes.
"""

import contextlib
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from service_kit import Server, serving
from tiny_nets import digits_net, echo_net, write_bundle
from wire_kit import INFER, post, wire

NUM_REQUESTS = int(os.environ.get("FOLDSERVE_FUZZ_REQUESTS", "1500"))
GROWTH_MB = 100
QUIET_S = 0.05  # a server that has not answered for so long waits for more of a broken request

GOOD = post(b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}')
SEEDS = [
    GOOD,
    b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /v2/models/echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    b"content-length: 60\r\n\r\n"
    b'--b\r\ncontent-disposition: form-data; name="f"\r\n\r\nx\r\n--b--\r\n',
    b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{}   \r\n0\r\n\r\n"
    % INFER.encode(),
    b"POST /v2/repository/index HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
    b"POST %b HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n{}" % INFER.encode(),
]
WORDS = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\t", b"%00", b"%2F", b"..", b"\xff" * 9, b"A" * 5000),
    *(b"content-length: 0\r\n", b"content-length: 18446744073709551616\r\n", b"content-length: -1\r\n"),
    *(b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip, chunked\r\n", b"upgrade: h2c\r\n"),
    *(b"connection: upgrade\r\n", b"content-encoding: gzip\r\n", b"ffffffffffffffff\r\n", b"0\r\n\r\n"),
    *(b"HTTP/1.0", b"HTTP/9.9", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"expect: 200-maybe\r\n"),
    *(b"inference-header-content-length: 99\r\n", b"[" * 200, b'"' * 9, b"{", b"host: y\r\n"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models: Path = tmp_path_factory.mktemp("models")
    write_bundle(models / "echo" / "1", echo_net("float32"))
    write_bundle(models / "digits" / "1", digits_net())
    with serving(models, "--request-log", "off", "--max-body-mb", "1") as running:
        yield running


def mutated(chance: random.Random) -> bytes:
    """One to three requests, with bytes changed, cut, doubled or put in."""
    content = bytearray(b"".join(chance.choices(SEEDS, k=chance.randint(1, 3))))
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(content) + 1)
        match chance.randrange(5):
            case 0:
                content[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del content[at : at + chance.randint(1, 40)]
            case 2:
                content[at:at] = chance.choice(WORDS)
            case 3:
                content[at:at] = content[max(0, at - chance.randint(1, 60)) : at]
            case 4:
                content[at:at] = content[:at]
    return bytes(content[:40_000])


def statuses_of(answer: bytes) -> list[int]:
    """The statuses of the answers in a stream of whole ones; raises ValueError if it is none."""
    found = []
    while answer:
        head, separator, rest = answer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        protocol, status, *_ = lines[0].split(b" ", 2)
        if not separator or protocol != b"HTTP/1.1":
            raise ValueError(f"no answer: {answer[:80]!r}")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:])
        length = 0 if status.startswith(b"1") else int(headers.get(b"content-length", 0))
        if len(rest) < length:
            raise ValueError(f"an answer is cut off: {answer[:80]!r}")
        found.append(int(status))
        answer = rest[length:]
    return found


def exchange(port: int, content: bytes, seed: int, quiet_s: float) -> bytes:
    """All that the server says to `content`, sent in pieces, until it says nothing for `quiet_s`."""
    received = b""
    chance = random.Random(seed)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock, contextlib.suppress(OSError):
        at = 0
        while at < len(content):
            size = chance.choice((len(content), 1, 7, 100, 1000))
            sock.sendall(content[at : at + size])
            at += size
        if chance.random() < 0.5:
            sock.shutdown(socket.SHUT_WR)
        sock.settimeout(quiet_s)
        while part := sock.recv(65536):
            received += part
    return received


def resident_mb(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


def test_case_9_broken_requests_get_whole_answers_and_harm_no_one(server: Server) -> None:
    seen: Counter[int] = Counter()
    quiet = resident_mb(server)
    for seed in range(NUM_REQUESTS):
        content = mutated(random.Random(seed))
        try:
            try:
                statuses = statuses_of(exchange(server.port, content, seed, QUIET_S))
            except ValueError:  # perhaps only slow
                statuses = statuses_of(exchange(server.port, content, seed, 40 * QUIET_S))
        except ValueError as error:
            raise AssertionError(f"seed {seed}: {error}; sent {content[:300]!r}") from None
        assert not [status for status in statuses if status >= 500 and status not in (501, 503, 505)], (
            f"seed {seed}: {statuses}; sent {content[:300]!r}"
        )
        seen.update(statuses)
        if seed % 100 == 0:
            begun = time.perf_counter()
            with wire(server.port) as line:
                assert line.send(GOOD).read().data == [1, 2, 3], f"after seed {seed}"
            assert time.perf_counter() - begun < 5, f"after seed {seed}"
    assert server.process.poll() is None
    assert {200, 400} <= set(seen), f"the generator reaches too little: {seen}"
    assert resident_mb(server) < quiet + GROWTH_MB
