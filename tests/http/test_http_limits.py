"""What one client may cost: bytes and seconds from the first byte of a request to the last of its answer.

Every refusal is a 4xx or 503 that names its limit; others are served meanwhile.
"""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from in_process_kit import Inside, inside
from service.http.connection import SLICE
from service.http.flow import Flow
from service.http.limits import HttpLimits
from service.http.shared import LOOK_EVERY_S
from service_kit import serving, wait_until, x_request
from tiny_nets import echo_net, write_bundle
from wire_kit import Answer, Wire, get, post, wire, works, write_echo, x_body

CHUNKED = ("transfer-encoding: chunked",)
FLAGS = (
    *("--max-body-mb", "1", "--max-inflight-mb", "2", "--max-connections", "6", "--lanes", "1"),
    *("--body-timeout-s", "3", "--write-timeout-s", "2", "--shutdown-timeout-s", "2"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    models = write_echo(tmp_path_factory.mktemp("limits"))
    write_bundle(models / "wide" / "1", echo_net("float32", [4000]))
    with inside(models, *FLAGS) as running:
        yield running


@pytest.fixture
def line(server: Inside) -> Iterator[Wire]:
    with wire(server.port) as opened:
        yield opened
    wait_until(lambda: len(server.connections()) == 0, "every connection is closed")
    assert server.on_loop(lambda: server.service.shared.inflight_bytes) == 0
    with wire(server.port) as other:  # whatever happened, others are served
        assert works(other)


def pour(line: Wire, block: bytes, times: int) -> Answer:
    """Send a block again and again until the server answers; its answer."""
    line.sock.setblocking(False)
    for _ in range(times):
        with contextlib.suppress(BlockingIOError, ConnectionResetError, BrokenPipeError):
            line.sock.send(block)
        with contextlib.suppress(BlockingIOError):
            if line.sock.recv(1, socket.MSG_PEEK):
                break
        time.sleep(0.001)
    line.sock.settimeout(10)
    return line.read()


def send_all(sock: socket.socket, content: bytes) -> None:
    with contextlib.suppress(OSError):
        sock.sendall(content)


def refused(answer: Answer, status: int, limit: str) -> bool:
    return (answer.status, limit in answer.json()["error"]) == (status, True)


@pytest.mark.parametrize("path", ["/v2/models/echo/infer", "/v2/repository/index"])
@pytest.mark.parametrize("block", [b"a: b\r\n" * 20_000, b"a" * 100_000])
def test_trailers_are_bounded(line: Wire, path: str, block: bytes) -> None:
    line.send(post(b"", *CHUNKED, path=path, has_length=False), b"1\r\nx\r\n0\r\n", b"t: ")
    assert refused(pour(line, block, 400), 431, "trailers have more than 131072 bytes")
    assert line.is_closed()


def test_the_framing_of_chunks_is_bounded(line: Wire) -> None:
    line.send(post(b"", *CHUNKED, has_length=False))
    extended = b"1;%b\r\nx\r\n" % (b"e" * 4000)
    assert refused(pour(line, extended * 20, 400), 413, "FOLDSERVE_MAX_BODY_MB")


@pytest.mark.parametrize(
    ("headers", "limit"), [(["a: b"] * 129, "128 headers"), (["a: " + "b" * 140_000], "131072 bytes")]
)
def test_heads_are_bounded(line: Wire, headers: list[str], limit: str) -> None:
    assert refused(line.send(post(x_body(1, 2, 3), *headers)).read(), 431, limit)
    assert line.is_closed()


@pytest.mark.parametrize("path", ["/v2/models/echo/infer", "/v2/repository/index", "/predict?model=echo"])
@pytest.mark.parametrize("is_chunked", [True, False])
def test_bodies_are_bounded_on_every_route(line: Wire, path: str, is_chunked: bool) -> None:
    if is_chunked:
        line.send(post(b"", *CHUNKED, path=path, has_length=False))
    else:
        line.send(post(b"", "content-length: 100000000", path=path, has_length=False))
    block = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = pour(line, block, 2000)
    assert answer.status in (400, 413), answer  # /predict may say first that `echo` takes no pictures
    limit = "131072 bytes" if "index" in path and is_chunked else "FOLDSERVE_MAX_BODY_MB"  # its own is lower
    assert answer.status == 400 or limit in answer.json()["error"]


def test_small_chunks_cost_their_bytes(tmp_path: Path) -> None:
    """Kept one by one, as they come, a million of two bytes each took 50 MB."""
    write_echo(tmp_path)
    with serving(tmp_path) as server, wire(server.port) as line:
        assert works(line)

        def peak_mb() -> float:
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024

        before = peak_mb()
        line.send(post(b"", *CHUNKED, has_length=False))
        for _ in range(100):
            line.send(b"2\r\n  \r\n" * 10_000)
        assert line.send(b"0\r\n\r\n").read().status == 400
        assert peak_mb() - before < 20


def test_bytes_in_flight_are_bounded_for_all_and_small_requests_still_served(
    server: Inside, line: Wire
) -> None:
    half = post(b"", "content-length: 1000000", has_length=False) + b" " * 900_000
    shared = server.service.shared
    with wire(server.port) as one, wire(server.port) as other, wire(server.port) as third:
        for number, opened in enumerate((one, other), 1):
            opened.send(half)
            wait_until(lambda n=number: shared.inflight_bytes > n * 800_000, "its bytes are counted")
        third.send(half)
        answer = third.read()
        assert refused(answer, 503, "FOLDSERVE_MAX_INFLIGHT_MB")
        assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
        assert works(line)
        assert one.send(b" " * 100_000).read().status in (400, 503)
    wait_until(lambda: shared.inflight_bytes == 0, "nothing is in flight")
    assert line.send(post(x_body(1, 2, 3) + b" " * 900_000)).read().status == 200


def test_connections_are_bounded(server: Inside) -> None:
    begun = post(b" ", "content-length: 9", has_length=False)
    wait_until(lambda: not server.connections(), "every connection is closed")
    with contextlib.ExitStack() as opened:
        others = [opened.enter_context(wire(server.port)) for _ in range(6)]
        for other in others:
            other.send(begun)
        wait_until(lambda: all(not c.is_unused for c in server.connections()), "all have begun a request")
        with wire(server.port) as one_more:
            one_more.send(post(x_body(1, 2, 3)))
            answer = one_more.read()
            assert refused(answer, 503, "FOLDSERVE_MAX_CONNECTIONS")
            assert one_more.is_closed()
        assert others[0].send(b" " * 8).read().status == 400


def test_one_connection_more_closes_the_longest_idle_one(server: Inside) -> None:
    wait_until(lambda: not server.connections(), "every connection is closed")
    with contextlib.ExitStack() as opened:
        others = [opened.enter_context(wire(server.port)) for _ in range(6)]
        assert all(works(other) for other in others)
        by_port = {c._transport.get_extra_info("peername")[1]: c for c in server.connections()}
        used = {5: 1.0, 4: 2.0, 2: 3.0, 0: 4.0, 1: 5.0, 3: 6.0}
        now_s = server.service.shared.now_s
        time.sleep(2 * LOOK_EVERY_S)  # the test before has made the server look, and find none
        for index, seconds in used.items():  # after the first of them
            by_port[others[index].sock.getsockname()[1]]._flow.heard_s = now_s - 10 + seconds
        by_port[others[3].sock.getsockname()[1]]._flow.written_bytes = 0  # as if no request had come on it
        for closed in (3, 5, 4):
            time.sleep(2 * LOOK_EVERY_S)  # it looks again after every second one
            assert works(opened.enter_context(wire(server.port)))
            assert others[closed].is_closed()
        assert all(works(others[left]) for left in (0, 1, 2))


def test_a_body_that_drips_gets_408_at_the_body_timeout(line: Wire) -> None:
    line.send(post(b"", "content-length: 1000", has_length=False))
    line.sock.settimeout(0.2)
    begun = time.monotonic()
    while time.monotonic() - begun < 30:
        try:
            line.send(b" ")
            answer = line.read()
            break
        except TimeoutError:
            pass
    assert refused(answer, 408, "FOLDSERVE_BODY_TIMEOUT_S")


def test_a_client_that_does_not_read_its_answer_is_cut_off(server: Inside, line: Wire) -> None:
    wide = json.dumps(x_request([0.5] * 4000, shape=[1, 4000])).encode()
    request = post(wide, path="/v2/models/wide/infer")
    with wire(server.port, receive_buffer=2048) as deaf:
        sending = threading.Thread(target=send_all, args=(deaf.sock, request * 1000))
        sending.start()
        wait_until(lambda: any(c._flow.is_write_paused for c in server.connections()), "writing pauses")
        wait_until(lambda: len(server.connections()) == 1, "it is cut off, and the other is not")
        sending.join()


def test_a_slow_reader_is_not_cut_off() -> None:
    flow = Flow(HttpLimits(write_timeout_s=10), 0.0)
    flow.written_bytes = 1000
    assert not flow.is_write_overdue(5.0, 900)
    flow.written_bytes = 2000
    assert not flow.is_write_overdue(15.0, 900)  # the first thousand has left; another has come
    assert not flow.is_write_overdue(25.0, 900)
    assert flow.is_write_overdue(26.0, 900)


def test_pipelined_requests_that_come_at_once_are_not_all_parsed(server: Inside, line: Wire) -> None:
    """Each is an object of a kilobyte; a client that never reads could have 14,000 of them kept."""
    with server.held("echo") as gate:
        line.send(post(x_body(1, 2, 3)))
        gate.wait_for_batch()
        tiny = b"GET /x HTTP/1.1\r\n\r\n"
        line.send(tiny * 10_000)
        wait_until(lambda: any(c._flow.unparsed for c in server.connections()), "they wait as bytes")
        assert all(len(c._flow.waiting) <= SLICE // len(tiny) + 1 for c in server.connections())
        wait_until(lambda: server.service.shared.inflight_bytes > 0, "they are counted")
        gate.open()
        assert line.read().data == [1, 2, 3]
        assert [line.read().status for _ in range(10_000)] == [404] * 10_000


def test_a_body_that_has_its_turn_before_it_is_whole_is_read_on(server: Inside, line: Wire) -> None:
    """Reading was stopped for the request before it, and once never resumed."""
    body = x_body(4, 5, 6)
    with server.held("echo") as gate:
        line.send(post(x_body(1, 2, 3)), post(body)[: -len(body) + 10])
        gate.wait_for_batch()
        server.has_read_everything()
        gate.open()
    assert line.read().data == [1, 2, 3]
    assert line.send(body[10:]).read().data == [4, 5, 6]
    assert works(line)


def test_large_bodies_follow_each_other(line: Wire) -> None:
    large = post(x_body(*range(30)) + b" " * 900_000)
    for first in (large, get("/metrics"), large):
        line.send(first, large)
        assert [line.read().status, line.read().status] == [200, 200]


@pytest.mark.parametrize("name", ["max_body_bytes", "max_connections", "write_timeout_s"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        HttpLimits(**{name: 0})


def test_an_answer_without_room_is_counted_as_refused(server: Inside, line: Wire) -> None:
    """It was counted as answered: the room is checked when the rows are there already."""
    wide, shared = server.served("wide").metrics, server.service.shared
    answered, refused_before = wide.requests, wide.failed_requests
    document = x_request([0.25] * 20_000, shape=[5, 4000])  # its answer has 100 kB
    document["inputs"][0]["name"] = "x"
    body = json.dumps(document).encode()
    room, shared.has_room = shared.has_room, lambda num_bytes: False  # type: ignore[method-assign]
    try:
        answer = line.send(post(body, path="/v2/models/wide/infer")).read()
    finally:
        shared.has_room = room  # type: ignore[method-assign]
    assert refused(answer, 503, "FOLDSERVE_MAX_INFLIGHT_MB")
    assert (wide.requests, wide.failed_requests) == (answered, refused_before + 1)
    assert line.send(post(body, path="/v2/models/wide/infer")).read().status == 200


def test_a_client_that_is_refused_keeps_no_memory(tmp_path: Path) -> None:
    """200,000 headers of 4 bytes took 3 MB for as long as the client stayed: 1.4 GB for one."""
    write_echo(tmp_path)
    content = b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a:b\r\n" * 50_000
    with inside(tmp_path) as server, contextlib.ExitStack() as opened:
        for _ in range(20):
            one = opened.enter_context(wire(server.port))
            with contextlib.suppress(OSError):
                one.send(content)
            assert one.read().status == 431
        kept = [connection._parser for connection in server.connections()]
        assert kept
        assert [parser for parser in kept if parser._headers or parser._parser is not None] == []
