"""Clients that go, or that never read: their rows are dropped, their mates are answered, memory is bounded.

`case_n` are the failure cases of the same number.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvloop

from inside_kit import Inside, inside
from service.http.outbox import Outbox
from service_kit import metric, wait_until
from wire_kit import EDGE_FLAGS, Wire, post, wire, works, write_echo, x_body

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


def test_a_half_closed_socket_counts_as_hung_up(server: Inside, line: Wire) -> None:
    """A FIN is all that a client leaves which has gone; its rows are not worth a batch."""
    with httpx.Client(base_url=server.url) as client, server.held("echo") as gate:
        hung_up = 'foldserve_failures_total{model="echo",reason="hung_up"}'
        before = metric(client, hung_up)
        line.send(post(BODY))
        gate.wait_for_batch()
        with wire(server.port) as half:
            half.send(post(x_body(4, 5, 6)))
            wait_until(lambda: server.served("echo").batcher.waiting_rows == 1, "its row waits")
            half.sock.shutdown(socket.SHUT_WR)
            wait_until(lambda: server.served("echo").batcher.waiting_rows == 0, "its row is dropped")
            assert half.is_closed()
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

    class Accept(asyncio.Protocol):
        def __init__(self, accepted: "asyncio.Queue[Any]", gone: asyncio.Event) -> None:
            self.accepted, self.gone = accepted, gone

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.accepted.put_nowait(transport)

        def connection_lost(self, error: Exception | None) -> None:
            self.gone.set()

    async def answer_both() -> bytes:
        accepted: asyncio.Queue[Any] = asyncio.Queue()
        is_gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: Accept(accepted, is_gone), "127.0.0.1", 0)
        ends = [socket.create_connection(listening.sockets[0].getsockname(), timeout=5) for _ in range(2)]
        one, other = await accepted.get(), await accepted.get()
        one.abort()
        await is_gone.wait()
        await asyncio.sleep(0)  # the transport closes behind this callback
        outbox = Outbox()
        outbox.put(one, b"gone", is_last=False)
        outbox.put(other, b"mate", is_last=True)
        with contextlib.suppress(RuntimeError):  # the mate counts
            outbox.flush()
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
                assert sum(len(c.pipeline) for c in server.connections()) * len(wide) < 2**22
        assert sent < 2**27, "the server went on reading"
        kept = max(c.transport.get_write_buffer_size() for c in server.connections())
        assert kept < 2**22
        assert works(line)
