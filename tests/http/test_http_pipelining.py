"""Several requests on one connection before the first is answered: every answer, in order, nothing between.

RFC 9112, 9.3.2: a server may work on pipelined requests at once, but must answer them in their order.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from in_process_kit import Inside, inside
from service.http.connection import SLICE
from service_kit import ROOT, binary_body, wait_until
from tiny_nets import digits_net, echo_net, write_bundle
from wire_kit import Wire, get, post, wire, x_body

ALIVE = get("/v2/health/live")
FLAGS = ("--max-body-mb", "0.01", "--lanes", "1", "--threads", "1", "--shutdown-timeout-s", "2")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Inside]:
    write_bundle(tmp_path / "echo" / "1", echo_net("float32"))
    write_bundle(tmp_path / "digits" / "1", digits_net())
    with inside(tmp_path, *FLAGS) as running:
        yield running


@pytest.fixture
def line(server: Inside) -> Iterator[Wire]:
    with wire(server.port) as opened:
        yield opened


def test_hot_after_hot_while_the_first_is_in_the_engine(server: Inside, line: Wire) -> None:
    with server.held("echo") as gate:
        line.send(*(post(x_body(number, 0, 0)) for number in range(20)))
        gate.wait_for_batch()
        gate.open()
        assert [line.read().data[0] for _ in range(20)] == list(range(20))


def test_a_refusal_does_not_overtake_the_answer_before_it(server: Inside, line: Wire) -> None:
    with server.held("echo") as gate:
        line.send(post(x_body(1, 2, 3)), post(b"{}"), post(b"{}", path="/v2/models/nope/infer"))
        line.send(post(x_body(4, 5, 6)))
        gate.wait_for_batch()
        gate.open()
        assert [line.read().status for _ in range(4)] == [200, 400, 404, 200]


@pytest.mark.parametrize(
    ("first", "then"),
    [("hot", "get"), ("get", "hot"), ("hot", "predict"), ("predict", "hot"), ("predict", "get")],
)
def test_routes_of_both_kinds_answer_in_order(server: Inside, line: Wire, first: str, then: str) -> None:
    requests = {
        "hot": (post(x_body(1, 2, 3)), b'"data":[1.0,2.0,3.0]'),
        "get": (get("/v2/models"), b'{"models"'),
        "predict": (post(b"no picture", path="/predict?model=digits"), b'{"error"'),
    }
    (one, says_one), (other, says_other) = requests[first], requests[then]
    with server.held("echo") as gate:
        line.send(one, other, one, other)
        if first == "hot":
            gate.wait_for_batch()
        gate.open()
        for says in (says_one, says_other, says_one, says_other):
            assert says in line.read().body


def test_many_refused_requests_behind_a_slow_one(server: Inside, line: Wire) -> None:
    """Each is answered at once when its turn comes: one after another, not one inside the other."""
    many = 2000
    with server.held("echo") as gate:
        line.send(post(x_body(1, 2, 3)))
        gate.wait_for_batch()
        line.send(post(b"{}", path="/v2/models/nope/infer") * many, post(x_body(4, 5, 6)))
        wait_until(
            lambda: any(c._flow.waiting and c._flow.unparsed for c in server.connections()),
            "they wait in line",
        )
        gate.open()
        assert line.read().status == 200
        assert {line.read().status for _ in range(many)} == {404}
        assert line.read().data == [4, 5, 6]


def test_a_reader_that_pauses_gets_both_kinds_in_order(tmp_path: Path) -> None:
    """When writing can go on, what waits in line must not start beside a request that has begun."""
    write_bundle(tmp_path / "wide" / "1", echo_net("float32", [4000]))
    write_bundle(tmp_path / "digits" / "1", digits_net())
    picture = (ROOT / "docs" / "seven.png").read_bytes()
    nope = post(b"{}", path="/v2/models/nope/infer")
    tensor = {
        "name": "x",
        "shape": [500, 4000],
        "datatype": "FP32",
        "parameters": {"binary_data_size": 8_000_000},
    }
    asked = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    large, headers = binary_body(asked, bytes(8_000_000))
    length = "inference-header-content-length: " + headers["Inference-Header-Content-Length"]
    with (
        inside(tmp_path, *FLAGS[2:]) as server,
        wire(server.port, receive_buffer=4096) as line,
        server.held("digits") as gate,
    ):
        line.send(post(large, length, path="/v2/models/wide/infer"))
        wait_until(lambda: any(c._flow.is_write_paused for c in server.connections()), "writing has paused")
        line.send(nope, post(picture, path="/predict?model=digits"), nope)
        assert len(line.read().body) > 8_000_000
        assert line.read().status == 404
        gate.wait_for_batch()
        server.has_read_everything()
        gate.open()
        assert line.read().status == 200
        assert line.read().status == 404


def test_garbage_behind_a_request_does_not_take_its_answer(server: Inside, line: Wire) -> None:
    with server.held("echo") as gate:
        line.send(post(x_body(1, 2, 3)))
        gate.wait_for_batch()
        line.send(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        server.has_read_everything()
        gate.open()
        assert line.read().status == 200
        refusal = line.read()
    assert (refusal.status, list(refusal.json())) == (400, ["error"])
    assert line.is_closed()


def test_garbage_behind_a_refused_request_does_not_take_its_answer(line: Wire) -> None:
    line.send(post(b"{}"), b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    assert "Unable to parse 'inputs'" in line.read().json()["error"]
    assert line.read().status == 400


def test_continue_does_not_overtake_the_answer_before_it(line: Wire) -> None:
    body = x_body(1, 2, 3)
    asks = post(b"", "expect: 100-continue", f"content-length: {len(body)}", has_length=False)
    line.send(post(b"{}"), asks)
    assert [line.read().status, line.read().status] == [400, 100]
    assert line.send(body).read().status == 200


def test_nothing_is_answered_behind_connection_close(server: Inside, line: Wire) -> None:
    with server.held("echo") as gate:
        line.send(post(x_body(1, 2, 3), "connection: close"), post(x_body(4, 5, 6)))
        gate.wait_for_batch()
        gate.open()
        answer = line.read()
    assert (answer.data, answer.headers["connection"]) == ([1, 2, 3], "close")
    assert line.is_closed()
    assert gate.num_batches == 1, "a request was run that cannot be answered"


def test_the_limit_holds_for_a_body_that_came_before_its_turn(server: Inside, line: Wire) -> None:
    body = json.dumps(json.loads(x_body(1, 2, 3))).encode() + b" " * 20_000
    chunked = post(b"", "transfer-encoding: chunked", has_length=False)
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with server.held("echo") as gate:
        line.send(post(x_body(1, 2, 3)))
        gate.wait_for_batch()
        line.send(chunked, post(x_body(4, 5, 6)))
        wait_until(lambda: any(c._flow.waiting for c in server.connections()), "it waits in line")
        gate.open()
        assert [line.read().status for _ in range(3)] == [200, 413, 200]


def test_pipelined_requests_that_nobody_reads_wait_in_the_socket(server: Inside) -> None:
    """What waits in memory is bounded by what is read and parsed at once, not by what a client sends."""
    with server.held("echo") as gate, wire(server.port) as line:
        line.send(post(x_body(1, 2, 3)))
        gate.wait_for_batch()
        line.sock.setblocking(False)
        many = post(x_body(4, 5, 6)) * 1000
        sent = 0
        try:
            while sent < 2**28:
                sent += line.sock.send(many)
        except BlockingIOError:
            pass
        assert sent < 2**26
        longest = max(len(c._flow.waiting) for c in server.connections())
        assert longest * len(post(x_body(4, 5, 6))) <= SLICE
