"""deploy/haproxy/haproxy.cfg with the real HAProxy in front of three replicas; every answer is compared.

Clients keep their connections to the balancer and never ask twice. A fault may cost one answer, and no time
in which none is right; a rolling update costs nothing.
"""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from onnx import helper

import extras
import netns_kit
from cluster_kit import load
from service_kit import ROOT, Server, free_port, wait_until
from tiny_nets import TinyNet, echo_net, write_bundle

CONFIG = ROOT / "deploy/haproxy/haproxy.cfg"
FLAGS = ("--threads", "1", "--drain-delay-s", "2")
NUM_REPLICAS = 3
FAULT_S = 3.0  # under load, before and after


class Balanced:
    """Three replicas behind HAProxy, whose only changes are its port and the replicas' addresses.

    `net` is what they serve as echo, `flags` come after the usual ones; `far` replaces the last replica.
    """

    def __init__(
        self, root: Path, net: TinyNet | None = None, *flags: str, far: netns_kit.Host | None = None
    ) -> None:
        assert extras.HAPROXY is not None
        self.models = root / "models"
        self._flags = flags
        write_bundle(self.models / "echo" / "1", net or echo_net("float32"))
        self.ports = [free_port() for _ in range(NUM_REPLICAS if far is None else NUM_REPLICAS - 1)]
        self.replicas = [self.start(port) for port in self.ports]
        self.port = free_port()
        text = CONFIG.read_text(encoding="utf-8").replace("bind :8080", f"bind 127.0.0.1:{self.port}")
        servers = [f"    server replica{port} 127.0.0.1:{port}" for port in self.ports]
        if far is not None:
            self.replicas.append(FarServer(self.models, *FLAGS, "--host", far.address, before=far.command()))
            servers.append(f"    server far {far.address}:{self.replicas[-1].port}")
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
        return Server(self.models, *FLAGS, *self._flags, "--port", str(port))

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


class FarServer(Server):
    """A replica on another host."""

    def __init__(self, models: Path, *flags: str, before: list[str]) -> None:
        self._before = before
        super().__init__(models, *flags)

    def command(self, models: Path, *flags: str) -> list[str]:
        return [*self._before, *super().command(models, *flags)]


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


@pytest.mark.cluster
@pytest.mark.alone
def test_a_cut_cable_costs_at_most_one_answer(tmp_path: Path) -> None:
    """No packet comes back, no connection breaks: what hangs is asked of another one after five seconds."""
    if extras.HAPROXY is None:
        pytest.skip(f"haproxy: {extras.NEEDED}")
    if (reason := netns_kit.why_not()) is not None:
        pytest.skip(reason)
    with netns_kit.hosts(1, with_here=True) as (far,):
        running = Balanced(tmp_path, far=far)
        try:
            time.sleep(1)
            with load([("127.0.0.1", running.port)], connections=16) as answers:
                time.sleep(FAULT_S / 3)
                far.cut()
                time.sleep(FAULT_S + 5)
        finally:
            running.close()
    assert len(answers.failures) <= 1, answers.failures
    assert answers.right > 500
    assert answers.longest_gap_s < 1.5


def slow_net(width: int = 1024) -> TinyNet:
    """What comes in goes out, after a large matrix product."""
    return TinyNet(
        nodes=[
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Mul", ["w", "largest"], ["scaled"]),
            helper.make_node("MatMul", ["scaled", "w"], ["product"]),
            helper.make_node("ReduceSum", ["product"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
            helper.make_node("Add", ["x", "nothing"], ["y"]),
        ],
        weights={"w": np.eye(width, dtype=np.float32), "zero": np.zeros((), np.float32)},
        inputs={"x": ("float32", [3])},
        outputs={"y": ("float32", [3])},
        truth=lambda rows: {"y": rows["x"].astype(np.float64)},
    )


@pytest.mark.cluster
@pytest.mark.alone
def test_overload_costs_no_capacity_and_is_no_storm(tmp_path: Path) -> None:
    """Twice as many requests as can be answered: as many answers as before, 503 for the others."""
    if extras.HAPROXY is None:
        pytest.skip(f"haproxy: {extras.NEEDED}")
    flags = ("--lanes", "1", "--buckets", "1", "--queue-rows", "4")
    running = Balanced(tmp_path, slow_net(), *flags)
    try:
        time.sleep(1)
        place = [("127.0.0.1", running.port)]
        rates, every = [], []
        for is_over in (False, True, False):  # in turn: what disturbs the machine disturbs both
            with ExitStack() as stack:  # one more client asks about once a second
                counts = [
                    NUM_REPLICAS * 4,
                    *([int(2 * rates[0])] if is_over else []),
                ]
                loads = [stack.enter_context(load(place, connections=n, is_patient=True)) for n in counts]
                time.sleep(2 * FAULT_S)
            rates.append(sum(answers.right for answers in loads) / (2 * FAULT_S))
            every += loads
        urls = [f"{replica.url}/metrics" for replica in running.replicas]
        seen = sum(
            float(line.rsplit(" ", 1)[1])
            for url in urls
            for line in httpx.get(url).text.splitlines()
            if line.startswith("foldserve_failures_total") and 'reason="overloaded"' in line
        )
    finally:
        running.close()
    assert [answers.failures for answers in every] == [[]] * 4
    refused = sum(answers.refused for answers in every)
    assert refused > 0
    assert seen == refused, "the balancer asked no other replica"
    assert rates[1] >= 0.9 * (rates[0] + rates[2]) / 2, rates
