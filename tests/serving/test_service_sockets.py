"""What clients may write on a socket: broken HTTP, an endless head, tiny chunks, pipelining, 100-continue."""

import json
import re
import socket
from collections.abc import Iterator

import httpx
import pytest

from service_kit import Server, serving, x_request
from tiny_nets import echo_net, write_bundle
from wire_kit import until_closed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("sockets") / "models"
    for name in ("a model", "digits"):
        write_bundle(models / name / "3", echo_net("float32"))
    with serving(models) as running:
        yield running


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_6_1_3_even_broken_http_gets_a_json_error(server: Server, request_bytes: bytes) -> None:
    answer = until_closed(server.port, request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400"), answer
    assert b"application/json" in head
    assert "error" in json.loads(body)


def test_an_endless_head_is_refused(server: Server) -> None:
    request = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * (8 * 2**20)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        try:
            sock.sendall(request)
            answer = sock.recv(1000)
        except (ConnectionResetError, BrokenPipeError):
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431"), answer
    assert httpx.get(f"{server.url}/v2/health/live").status_code == 200


def test_case_7_a_body_in_many_tiny_chunks(server: Server) -> None:
    document = json.dumps(x_request([1, 2, 3])).encode()
    document += b" " * (70_000 - len(document))
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in document)
    head = b"POST /v2/models/a%20model/infer HTTP/1.1\r\nhost: x\r\n"
    head += b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    answer = until_closed(server.port, head + chunks + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200"), answer[:300]


def test_keep_alive_and_pipelining(server: Server) -> None:
    body = json.dumps(x_request([1, 2, 3])).encode()
    head = b"POST /v2/models/a%%20model/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % len(body)
    bad = head.replace(b"a%20model", b"nope")
    last = b"connection: close\r\n\r\n"
    answer = until_closed(server.port, head + b"\r\n" + body + bad + b"\r\n" + body + head + last + body)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"404", b"200"]


def test_expect_100_continue(server: Server) -> None:
    body = json.dumps(x_request([1, 2, 3])).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(
            b"POST /v2/models/a%%20model/infer HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        assert sock.recv(1000).startswith(b"HTTP/1.1 100")
        sock.sendall(body)
        assert sock.recv(5000).startswith(b"HTTP/1.1 200")
