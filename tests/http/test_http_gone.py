"""Clients that go, or that never read: their rows are dropped, their mates are answered, memory is bounded.

`case_n` are the cases of docs/failure-cases.md.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from unittest.mock import Mock

import httpx
import pytest
import uvloop

from in_process_kit import Inside, inside
from service.http.connection import Connection
from service.http.limits import HttpLimits
from service.http.shared import Shared
from service_kit import metric, wait_until
from wire_kit import EDGE_FLAGS, Wire, get, post, wire, works, write_echo, x_body

BODY = x_body(1, 2, 3)


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


@pytest.mark.parametrize("request_bytes", [post(BODY), get("/v2/models/echo")])
def test_a_half_closed_client_gets_its_answer(server: Inside, line: Wire, request_bytes: bytes) -> None:
    """As `nc -N` does; RFC 9112, 9.6 leaves it open, and who asks that way waits for an answer."""
    line.send(request_bytes)
    line.sock.shutdown(socket.SHUT_WR)
    answer = line.read()
    if answer.status == 100:
        answer = line.read()
    assert answer.status == 200
    assert line.is_closed()


def test_a_half_closed_client_gets_its_answer_when_its_batch_is_done(server: Inside, line: Wire) -> None:
    with server.held("echo") as gate, wire(server.port) as half:
        half.send(post(BODY))
        gate.wait_for_batch()
        half.sock.shutdown(socket.SHUT_WR)
        assert half.read().status == 100
        server.has_read_everything()
        gate.open()
        assert half.read().data == [1, 2, 3]
        assert half.is_closed()


def test_a_half_closed_client_gets_every_answer_it_waits_for(server: Inside, line: Wire) -> None:
    line.send(post(BODY), get("/v2/health/live"), post(x_body(4, 5, 6)))
    line.sock.shutdown(socket.SHUT_WR)
    answers = [line.read().status for _ in range(3)]
    while answers.count(200) < 3:
        answers.append(line.read().status)
    assert set(answers) <= {100, 200}
    assert line.is_closed()


def test_a_closed_socket_counts_as_hung_up(server: Inside, line: Wire) -> None:
    """Like a half-closed one at first, but its system answers the probe with a reset."""
    with httpx.Client(base_url=server.url) as client, server.held("echo") as gate:
        hung_up = 'foldserve_failures_total{model="echo",reason="hung_up"}'
        before = metric(client, hung_up)
        line.send(post(BODY))
        gate.wait_for_batch()
        with wire(server.port) as gone:
            gone.send(post(x_body(4, 5, 6)))
            wait_until(lambda: server.served("echo").batcher.waiting_rows == 1, "its row waits")
        wait_until(lambda: server.served("echo").batcher.waiting_rows == 0, "its row is dropped")
        wait_until(lambda: metric(client, hung_up) == before + 1, "it is counted")
        gate.open()
        assert line.read().data == [1, 2, 3]
    assert gate.num_batches == 1


@pytest.mark.parametrize("cut", [5, 60, len(post(BODY)) - 1])
@pytest.mark.parametrize("by_reset", [False, True])
def test_a_client_that_goes_before_its_request_is_whole(
    server: Inside, line: Wire, cut: int, by_reset: bool
) -> None:
    assert works(line)
    wait_until(lambda: len(server.connections()) == 1, "only this connection is left")
    with wire(server.port) as gone:
        gone.send(post(BODY)[:cut])
        wait_until(lambda: len(server.connections()) == 2, "it is connected")
        if by_reset:
            gone.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: len(server.connections()) == 1, "it is gone")
    assert works(line)


def test_a_client_that_resets_while_its_row_is_in_the_engine_harms_no_mate(
    server: Inside, line: Wire
) -> None:
    with server.held("echo") as gate:
        with wire(server.port) as gone:
            gone.send(post(BODY))
            gate.wait_for_batch()
            gone.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: len(server.connections()) == 1, "it is gone")
        line.send(post(x_body(4, 5, 6)))
        wait_until(lambda: server.served("echo").batcher.waiting_rows == 1, "the other row waits")
        gate.open()
        assert line.read().data == [4, 5, 6]


def test_answers_leave_though_one_connection_in_the_outbox_is_closed() -> None:
    """A batch's answers leave together: a client of it that has gone must not take its mates' with it."""

    async def answer_both() -> bytes:
        shared = Shared(Mock(), Mock(), HttpLimits())
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: Connection(shared), "127.0.0.1", 0)  # type: ignore[arg-type]
        opened, ends = [], []
        for _ in range(2):
            ends.append(socket.create_connection(listening.sockets[0].getsockname(), timeout=5))
            while not (new := set(shared.connections) - set(opened)):  # noqa: ASYNC110
                await asyncio.sleep(0)
            opened += new
        opened[0].abort()
        while opened[0] in shared.connections:  # noqa: ASYNC110
            await asyncio.sleep(0)
        shared.outbox.put(opened[0], b"gone", closes=False)
        shared.outbox.put(opened[1], b"mate", closes=True)
        with contextlib.suppress(RuntimeError):  # the mate counts
            shared.outbox.flush()
        got = b""
        for end in ends:
            with contextlib.suppress(OSError):
                got += await loop.run_in_executor(None, end.recv, 100)
            end.close()
        listening.close()
        return got

    assert uvloop.run(asyncio.wait_for(answer_both(), 30)) == b"mate"


def test_case_31_a_client_that_never_reads_is_not_read_from(server: Inside, line: Wire) -> None:
    """What the server keeps for it is bounded, however much it sends; others are served meanwhile."""
    with wire(server.port, receive_buffer=4096) as deaf:
        deaf.sock.settimeout(0.5)
        wide = post(x_body(*range(30)))
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 2**27:
                sent += deaf.sock.send(wide * 100)
                assert sum(len(c._flow.waiting) for c in server.connections()) * len(wide) < 2**22
        assert sent < 2**27, "the server went on reading"
        kept = max(c._transport.get_write_buffer_size() for c in server.connections())
        assert kept < 2**22
        assert works(line)
