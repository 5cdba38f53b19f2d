"""deploy/haproxy/haproxy.cfg with the real HAProxy in front of three replicas; every answer is compared.

Clients keep their connections to the balancer and never ask twice. A fault may cost one answer, and no time
in which none is right; a rolling update costs nothing.
"""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import extras
from cluster_kit import load
from service_kit import ROOT, Server, free_port, wait_until
from tiny_nets import echo_net, write_bundle

CONFIG = ROOT / "deploy/haproxy/haproxy.cfg"
FLAGS = ("--threads", "1", "--drain-delay-s", "2")
NUM_REPLICAS = 3
FAULT_S = 3.0  # under load, before and after


class Balanced:
    """Three replicas behind HAProxy, whose only changes are its port and the replicas' addresses."""

    def __init__(self, root: Path) -> None:
        assert extras.HAPROXY is not None
        self.models = root / "models"
        write_bundle(self.models / "echo" / "1", echo_net("float32"))
        self.ports = [free_port() for _ in range(NUM_REPLICAS)]
        self.replicas = [self.start(port) for port in self.ports]
        self.port = free_port()
        text = CONFIG.read_text(encoding="utf-8").replace("bind :8080", f"bind 127.0.0.1:{self.port}")
        servers = [f"    server replica{port} 127.0.0.1:{port}" for port in self.ports]
        text, count = re.subn(r"^ *server-template .*$", "\n".join(servers), text, flags=re.MULTILINE)
        assert count == 1
        (root / "haproxy.cfg").write_text(text, encoding="utf-8")
        self.process = subprocess.Popen(
            [str(extras.HAPROXY), "-db", "-f", str(root / "haproxy.cfg")], stderr=subprocess.DEVNULL
        )
        self.wait_until_loaded(*self.replicas)
        wait_until(self._answers, "HAProxy has found a replica")

    def start(self, port: int) -> Server:
        """A replica on a port of its own; the last flag wins."""
        return Server(self.models, *FLAGS, "--port", str(port))

    def wait_until_loaded(self, *replicas: Server) -> None:
        for replica in replicas:
            replica.wait_until_loaded()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/v2/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for replica in self.replicas:
            replica.close()


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balanced]:
    if extras.HAPROXY is None:
        pytest.skip(f"haproxy: {extras.NEEDED}")
    running = Balanced(tmp_path_factory.mktemp("haproxy"))
    yield running
    running.close()


def test_the_configuration_is_valid() -> None:
    if extras.HAPROXY is None:
        pytest.skip(f"haproxy: {extras.NEEDED}")
    done = subprocess.run([extras.HAPROXY, "-c", "-f", str(CONFIG)], capture_output=True, text=True)
    assert (done.returncode, "warning" in done.stderr.lower()) == (0, False), done.stderr


@pytest.mark.cluster
@pytest.mark.alone
def test_a_rolling_update_costs_nothing(balanced: Balanced) -> None:
    with load([("127.0.0.1", balanced.port)], connections=16) as answers:
        for index, port in enumerate(balanced.ports):
            old = balanced.replicas[index]
            old.terminate()
            assert old.wait() == 0
            old.close()
            balanced.replicas[index] = balanced.start(port)
            balanced.wait_until_loaded(balanced.replicas[index])
            time.sleep(1)  # until it counts as up again
    assert answers.failures == []
    assert answers.right > 1000
    assert answers.closing == 0, "the balancer keeps its clients' connections"


@pytest.mark.cluster
@pytest.mark.alone
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_replica_that_dies_or_hangs_costs_at_most_one_answer(
    balanced: Balanced, fault: signal.Signals
) -> None:
    """The requests that a stopped one holds are answered by another when their five seconds are over."""
    with load([("127.0.0.1", balanced.port)], connections=16) as answers:
        time.sleep(FAULT_S / 3)
        balanced.replicas[1].terminate(fault)
        time.sleep(FAULT_S + (5 if fault is signal.SIGSTOP else 0))
    assert len(answers.failures) <= 1, answers.failures
    assert answers.right > 500
    assert answers.longest_gap_s < 1.5
    balanced.replicas[1].close()
    balanced.replicas[1] = balanced.start(balanced.ports[1])
    balanced.wait_until_loaded(balanced.replicas[1])
    time.sleep(1)
