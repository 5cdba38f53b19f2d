"""Where a request ends, and whether the next one is read: upgrades, codings, refused bodies."""

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from in_process_kit import Inside, inside
from wire_kit import EDGE_FLAGS, Wire, get, post, wire, works, write_echo, x_body

BODY = x_body(1, 2, 3)
H2C = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__")
ALIVE = get("/v2/health/live")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    with inside(write_echo(tmp_path_factory.mktemp("framing")), *EDGE_FLAGS) as running:
        yield running


@pytest.fixture
def line(server: Inside) -> Iterator[Wire]:
    with wire(server.port) as opened:
        yield opened
    with wire(server.port) as other:  # whatever happened, others are served
        assert works(other)


def chunked(body: bytes, *headers: str, size: int = 10) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    head = post(b"", "transfer-encoding: chunked", *headers, has_length=False)
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_an_upgrade_with_a_chunked_body_is_answered_as_http_1_1(line: Wire) -> None:
    """As Java's HttpClient asks by default, with every request that has a body."""
    request = chunked(BODY, *H2C)
    for _ in range(2):
        assert line.send(request).read().data == [1, 2, 3]
    for byte in request:
        line.send(bytes([byte]))
    assert line.read().data == [1, 2, 3]
    line.send(request, request, ALIVE)
    assert [line.read().data, line.read().data] == [[1, 2, 3], [1, 2, 3]]
    assert line.read().status == 200


def test_many_upgrades_in_one_write(line: Wire) -> None:
    line.send(get("/v2/health/live", *H2C) * 3000)
    assert [line.read().status for _ in range(3000)] == [200] * 3000


@pytest.mark.parametrize("coding", ["gzip, chunked", "gzip,chunked", "x, gzip, chunked"])
@pytest.mark.parametrize("path", ["/v2/models/echo/infer", "/v2/repository/index"])
def test_other_transfer_codings_are_refused(line: Wire, coding: str, path: str) -> None:
    """RFC 9112, 6.1: 501 for a coding that the server does not understand."""
    line.send(post(b"", f"transfer-encoding: {coding}", path=path, has_length=False), b"3\r\nabc\r\n")
    answer = line.read()
    named = coding.split(",")[0]
    assert (answer.status, f"'{named}" in answer.json()["error"]) == (501, True)
    assert line.is_closed()


def test_expect_continue_then_413_closes_so_that_no_request_is_taken_for_the_body(line: Wire) -> None:
    line.send(post(b"", "expect: 100-continue", "content-length: 1100000", has_length=False))
    answer = line.read()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert line.is_closed()


def test_413_to_a_body_that_is_sent_swallows_that_body_alone(line: Wire) -> None:
    line.send(post(b" " * 1_100_000), ALIVE)
    assert [line.read().status, line.read().status] == [413, 200]


def is_cut_off(line: Wire, block: bytes) -> bool:
    """Whether the server stops reading within seconds, however much comes."""
    begun = time.monotonic()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while time.monotonic() - begun < 20:
            line.send(block)
            time.sleep(0.01)
        return False
    return True


def test_413_to_an_endless_body_ends_the_connection(line: Wire) -> None:
    line.send(post(b"", "content-length: 100000000000", has_length=False))
    answer = line.read()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    block = b" " * 2**16
    assert is_cut_off(line, block)


def test_413_to_endless_chunks_ends_the_connection(line: Wire) -> None:
    line.send(post(b"", "transfer-encoding: chunked", has_length=False))
    block = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    line.send(block * 17)
    assert line.read().status == 413
    assert is_cut_off(line, block)


def test_bare_line_ends_do_not_keep_a_connection_open(server: Inside, line: Wire) -> None:
    assert works(line)
    (connection,) = server.connections()
    heard_s = connection._flow.heard_s
    server.on_loop(lambda: server.service.shared.tick(server.loop.time() + 5))
    line.send(b"\r\n" * 10)
    server.has_read_everything()
    assert connection._flow.heard_s == heard_s
    assert works(line)


def test_a_half_closed_request_that_is_not_whole_ends_the_connection(line: Wire) -> None:
    line.send(post(BODY)[:-1])
    line.sock.shutdown(socket.SHUT_WR)
    assert line.is_closed()
