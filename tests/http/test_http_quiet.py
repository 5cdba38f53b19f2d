"""Connections on which nothing comes any more: heads and bodies that stop, idle ones, and the server's end.

Time is moved by the test: what the server would find later is asked for at once.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from in_process_kit import Inside, inside
from tiny_nets import echo_net, write_bundle
from wire_kit import EDGE_FLAGS, Wire, get, post, wire, works, write_echo, x_body

BODY = x_body(1, 2, 3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    with inside(write_echo(tmp_path_factory.mktemp("edges")), *EDGE_FLAGS) as running:
        yield running


def look_at(server: Inside, seconds: float) -> None:
    """What the server would close if so much time had passed."""
    later = server.loop.time() + seconds
    server.on_loop(lambda: [connection.close_if_idle(later) for connection in server.connections()])


@pytest.fixture
def line(server: Inside) -> Iterator[Wire]:
    with wire(server.port) as opened:
        yield opened
    with wire(server.port) as other:  # whatever happened, others are served
        assert works(other)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"POST /v2/models/echo/infer HTTP/1.1\r\nhost: x\r\n", "head did not arrive in time"),
        (b"G", "head did not arrive in time"),
        (post(b"", "content-length: 100", has_length=False) + b"{", "body did not continue in time"),
        (get("/v2/models").replace(b"GET", b"POST") + b"POST /v2/models/echo/infer", "head did not arrive"),
    ],
)
def test_what_stops_arriving_gets_408(server: Inside, line: Wire, sent: bytes, message: str) -> None:
    line.send(sent)
    server.has_read_everything()
    look_at(server, 61)
    answer = line.read()
    if answer.status == 405:
        answer = line.read()
    assert (answer.status, message in answer.json()["error"]) == (408, True)
    assert line.is_closed()


def test_a_head_that_drips_is_not_given_more_time(server: Inside, line: Wire) -> None:
    line.send(b"POST /v2/models/echo/infer HTTP/1.1\r\n")
    server.has_read_everything()
    (connection,) = [c for c in server.connections() if c._flow.head_bytes > 0]
    begun = connection._flow.heard_s
    server.on_loop(lambda: server.service.shared.tick(server.loop.time() + 5))
    line.send(b"x-drip: 1\r\n")
    server.has_read_everything()
    assert connection._flow.heard_s == begun
    assert line.send(b"content-length: 2\r\n\r\n{}").read().status == 400


def test_a_slow_engine_is_not_a_slow_client(server: Inside, line: Wire) -> None:
    with server.held("echo") as gate:
        line.send(post(BODY))
        gate.wait_for_batch()
        look_at(server, 1e6)
        gate.open()
        assert line.read().data == [1, 2, 3]


def test_a_begun_head_behind_a_slow_request_does_not_take_its_answer(server: Inside, line: Wire) -> None:
    with server.held("echo") as gate:
        line.send(post(BODY), b"POST /v2/mod")
        gate.wait_for_batch()
        look_at(server, 1e6)
        gate.open()
        assert line.read().status == 200


def test_an_idle_connection_is_closed_and_a_used_one_is_not(server: Inside, line: Wire) -> None:
    assert works(line)
    keep_alive_s = server.service.shared.limits.keep_alive_s
    look_at(server, keep_alive_s - 5)
    assert works(line)
    look_at(server, keep_alive_s + 5)
    assert line.is_closed()


def test_an_answer_on_its_way_out_is_not_cut_off_by_the_end(tmp_path: Path) -> None:
    """The server stops in the very turn in which an answer was handed to the outbox."""
    write_bundle(tmp_path / "echo" / "1", echo_net("float32"))
    with inside(tmp_path, "--lanes", "1", "--shutdown-timeout-s", "2") as server, wire(server.port) as line:

        def put_and_stop() -> None:
            (connection,) = server.connections()
            exchange = connection._flow.current
            assert exchange is not None
            exchange.answer(200, b"", [b"answer"])
            connection.close_when_answered()

        with server.held("echo") as gate:
            line.send(post(BODY))
            gate.wait_for_batch()
            server.on_loop(put_and_stop)
            assert line.read().body == b"answer"
