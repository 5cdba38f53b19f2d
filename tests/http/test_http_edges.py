"""The edges of HTTP on the hot route: bodies that come oddly, are refused, stop, or whose client has gone.

`case_n` are the cases of docs/failure-cases.md. The rule under all: the next request works.
"""

from collections.abc import Iterator

import pytest

from in_process_kit import Inside, inside
from wire_kit import EDGE_FLAGS, Wire, post, wire, works, write_echo, x_body

BODY = x_body(1, 2, 3)
CHUNKED = ("transfer-encoding: chunked",)


def chunks(body: bytes, size: int) -> bytes:
    """A chunked body."""
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    with inside(write_echo(tmp_path_factory.mktemp("edges")), *EDGE_FLAGS) as running:
        yield running


@pytest.fixture
def line(server: Inside) -> Iterator[Wire]:
    with wire(server.port) as opened:
        yield opened
    with wire(server.port) as other:  # whatever happened, others are served
        assert works(other)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_case_8_chunked_bodies(line: Wire, size: int) -> None:
    line.send(post(b"", *CHUNKED, has_length=False), chunks(BODY, size))
    assert line.read().data == [1, 2, 3]
    assert works(line)


def test_chunked_with_trailers(line: Wire) -> None:
    body = chunks(BODY, 10)[:-2] + b"x-request-id: trailer\r\nexpect: 100-continue\r\n\r\n"
    line.send(post(b"", *CHUNKED, "x-request-id: head", has_length=False), body)
    assert line.read().headers["x-request-id"] == "head"
    assert works(line)


def test_a_request_byte_by_byte(line: Wire) -> None:
    for byte in post(BODY, "x-request-id: slow"):
        line.send(bytes([byte]))
    answer = line.read()
    assert (answer.data, answer.headers["x-request-id"]) == ([1, 2, 3], "slow")
    assert works(line)


def test_expect_continue_then_the_body(line: Wire) -> None:
    line.send(post(b"", "expect: 100-continue", f"content-length: {len(BODY)}", has_length=False))
    assert line.read().status == 100
    assert line.send(BODY).read().data == [1, 2, 3]
    assert works(line)


def test_expect_continue_with_a_body_that_is_there_already(line: Wire) -> None:
    line.send(post(BODY, "Expect: 100-Continue"))
    first = line.read()
    answer = line.read() if first.status == 100 else first  # RFC 9110, 10.1.1: may be left out
    assert answer.data == [1, 2, 3]
    assert works(line)


def test_expect_continue_is_not_given_to_a_body_over_the_limit(line: Wire) -> None:
    line.send(post(b"", "expect: 100-continue", "content-length: 9999999", has_length=False))
    assert line.read().status == 413


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(BODY, "connection: close"),
        post(BODY, "Connection: Close"),
        post(BODY).replace(b"HTTP/1.1", b"HTTP/1.0"),
        post(b"{}", "connection: close"),
        post(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_connections_that_shall_close_do(line: Wire, request_bytes: bytes) -> None:
    answer = line.send(request_bytes).read()
    assert (answer.status, answer.headers["connection"]) == (400 if b"{}" in request_bytes else 200, "close")
    assert line.is_closed()


def failures_of(server: Inside) -> int:
    """How many requests got an error so far."""
    return server.on_loop(lambda: sum(server.service.models.metrics.failures.values()))


def test_case_7_too_large_by_its_length_is_said_before_the_body(server: Inside, line: Wire) -> None:
    before = failures_of(server)
    body = b" " * (2**20 + 1)
    line.send(post(b"", f"content-length: {len(body)}", has_length=False))
    answer = line.read()
    assert (answer.status, f"{len(body)} bytes" in answer.json()["error"]) == (413, True)
    assert "connection" not in answer.headers
    line.send(body)
    assert works(line)
    assert failures_of(server) == before + 1, "one request was counted more than once"


def test_case_7_too_large_by_chunks_is_said_as_soon_as_it_is(server: Inside, line: Wire) -> None:
    before = failures_of(server)
    line.send(post(b"", *CHUNKED, has_length=False), chunks(b" " * (2**20 + 1), 65536)[:-5])
    assert line.read().status == 413
    line.send(chunks(b" " * 300_000, 65536))
    assert works(line)
    assert failures_of(server) == before + 1, "one request was counted more than once"


def test_a_body_of_exactly_the_limit_is_read(line: Wire) -> None:
    body = BODY + b" " * (2**20 - len(BODY))
    assert line.send(post(body)).read().data == [1, 2, 3]
    line.send(post(b"", *CHUNKED, has_length=False), chunks(body, 5000))
    assert line.read().data == [1, 2, 3]
