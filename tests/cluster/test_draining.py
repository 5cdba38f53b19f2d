"""Replicas are replaced under load, without a balancer: clients keep their connections and lose no answer.

What stands in front of real replicas is modelled as kube-proxy does it: a client is led to one of the ready
replicas when it connects, is not led elsewhere later, and a replica that ends leaves the list some time after
its SIGTERM.
"""

import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from cluster_kit import Answers, load
from service_kit import Server, responds, wait_until, x_request
from tiny_nets import echo_net, write_bundle

DRAIN_S = 1.5
LAG_S = 0.3  # until clients know that a replica ends
FLAGS = ("--threads", "1", "--drain-delay-s", str(DRAIN_S))


class WithoutClose(Server):
    """The same server without the line that makes each answer say `connection: close` from SIGTERM on."""

    def command(self, models: Path, *flags: str) -> list[str]:
        patch = (
            "import asyncio, sys; from service.__main__ import main\n"
            "from service.processes.server import Server\n"
            "def begin(self):\n"
            "    self._service.models.is_draining = True\n"
            "    asyncio.get_running_loop().call_later(self._settings.drain_delay_s, self._stop)\n"
            "Server._begin_to_stop = begin\n"
            f"sys.exit(main({['--models', str(models), '--port', '0', *flags]!r}))"
        )
        return [sys.executable, "-c", patch]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("draining")
    write_bundle(root / "echo" / "1", echo_net("float32"))
    return root


def rolled_out(models: Path, kind: type[Server], *, num_replicas: int, num_answers: int) -> Answers:
    """What clients got while replicas were replaced, one after another."""
    with ExitStack() as stack:

        def started() -> Server:
            server = kind(models, *FLAGS)
            stack.callback(server.close)
            return server

        old = [started() for _ in range(num_replicas)]
        addresses = [("127.0.0.1", server.wait_until_loaded().port) for server in old]
        with (
            load(addresses, connections=8) as busy,
            load(addresses, connections=24, pause_s=DRAIN_S / 8) as pausing,
        ):
            for server in old:
                addresses.append(("127.0.0.1", started().wait_until_loaded().port))
                server.terminate()
                time.sleep(LAG_S)
                addresses.remove(("127.0.0.1", server.port))
                assert server.wait() == 0
            wait_until(lambda: busy.right + pausing.right >= num_answers, "enough was asked")
    return Answers(
        right=busy.right + pausing.right,
        failures=busy.failures + pausing.failures,
        closing=busy.closing + pausing.closing,
    )


def test_no_answer_is_lost_when_three_replicas_are_replaced(models: Path) -> None:
    answers = rolled_out(models, Server, num_replicas=3, num_answers=5000)
    assert answers.failures == []
    assert answers.right >= 5000
    assert answers.closing >= 32, "each client was told at least once"


def test_answers_are_lost_without_connection_close(models: Path) -> None:
    """The control: the same clients notice."""
    answers = rolled_out(models, WithoutClose, num_replicas=1, num_answers=0)
    assert answers.closing == 0
    assert len(answers.failures) > 0


@pytest.mark.alone
def test_connections_of_a_server_that_drains(models: Path) -> None:
    """New ones are accepted until the delay is over, idle ones closed then, and new ones refused."""
    server = Server(models, *FLAGS)
    try:
        server.wait_until_loaded()
        place = ("127.0.0.1", server.port)
        with socket.create_connection(place, timeout=30) as idle, socket.create_connection(place) as slow:
            # A request that is not whole keeps the process up while new connections are tried.
            slow.sendall(b"POST /v2/models/echo/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
            idle.sendall(b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"connection: close" not in idle.recv(1000)
            begun = time.monotonic()
            server.terminate()
            wait_until(
                lambda: httpx.get(f"{server.url}/v2/health/ready").status_code == 503, "it is not ready"
            )
            for path, body in (("/v2/models/echo/infer", x_request([1, 2, 3])), ("/v2", None)):
                answer = httpx.request("POST" if body else "GET", server.url + path, json=body)
                assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            assert time.monotonic() - begun < DRAIN_S, "too slow a machine: the delay was over meanwhile"
            assert idle.recv(1000) == b"", "closed by the server"
            assert time.monotonic() - begun > DRAIN_S * 0.9
            wait_until(lambda: not responds(server.url), "new connections are refused")
            assert server.process.poll() is None, "it still waits for the request that it has accepted"
            slow.sendall(b"       }")
            assert slow.recv(1000).startswith(b"HTTP/1.1 503")
        assert server.wait() == 0
    finally:
        server.close()
