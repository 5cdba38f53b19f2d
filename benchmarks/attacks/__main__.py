"""What does a well-behaved client notice while another one attacks?  About ten seconds for each attack.

In: the digits model (`make model`).  Out: a Markdown table on stdout.

    python -m benchmarks.attacks                           # every attack
    python -m benchmarks.attacks --only scans,webp-form    # some of them

Each attack meets a fresh server with default limits, over 4 connections that repeat it. Attackers run with
less priority than everything else: they would be on other machines. Memory is what the server and its
children take beyond the quiet server; "left" is the processor time that they use a second after the attackers
have gone.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from benchmarks.attacks.attacks import ATTACKS, Attack, choose
from benchmarks.attacks.processes import MemoryWatch, children_of, cpu_s
from benchmarks.common import cpu_model, new_parser

CONNECTIONS = 4
HANG_UP_AFTER_S = 0.3
SEND_S = 30.0
READY_S = 60.0
NICENESS = 10
HEAD = "| attack | infer p99, ms | /predict p99, ms | health max, ms | memory, MiB | answers | left |"
RULE = "| --- | --- | --- | --- | --- | --- | --- |"


class Server:
    """`python -m service` on a port of its own, with default limits."""

    def __init__(self, models: Path, cache: Path) -> None:
        self.port = _free_port()
        command = [sys.executable, "-m", "service", "--models", str(models), "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*command, "--cache", str(cache), "--request-log", "off"], stderr=subprocess.DEVNULL
        )
        self.pid = self._process.pid

    def __enter__(self) -> "Server":
        end = time.monotonic() + READY_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                self.neighbour(0.1)
            except subprocess.CalledProcessError:
                time.sleep(0.1)
            else:
                return self
        self.__exit__()
        raise SystemExit("the server did not get ready; is there a model digits? (make model)")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def neighbour(self, seconds: float) -> dict[str, list[float]]:
        """What a well-behaved client measures in so many seconds, in milliseconds."""
        command = [sys.executable, "-m", "benchmarks.attacks.neighbour", str(self.port), str(seconds)]
        output = subprocess.run(command, capture_output=True, check=True).stdout
        measured: dict[str, list[float]] = json.loads(output)
        return measured

    def cpu_s(self) -> float:
        """Processor time of the server and of its children that run."""
        return sum(cpu_s(pid) for pid in (self.pid, *children_of(self.pid)))


class Attackers:
    """Connections that repeat an attack until the block ends; `answers` counts what they are told."""

    def __init__(self, port: int, attack: Attack) -> None:
        self.answers: Counter[str] = Counter()
        self._port = port
        self._attack = attack
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, daemon=True) for _ in range(CONNECTIONS)]

    def __enter__(self) -> "Attackers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)

    def _repeat(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        head = (
            f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {self._attack.content_type}\r\n"
            f"Content-Length: {len(self._attack.body)}\r\n\r\n"
        ).encode()
        while not self._is_over.is_set():
            with socket.create_connection(("127.0.0.1", self._port)) as client:
                with contextlib.suppress(OSError):  # refused early: the answer can be read
                    client.settimeout(SEND_S)
                    client.sendall(head)
                    client.sendall(self._attack.body)
                client.settimeout(HANG_UP_AFTER_S)
                self.answers[self._answer(client)] += 1

    def _answer(self, client: socket.socket) -> str:
        """The status, or what happened instead."""
        while not self._is_over.is_set():
            try:
                return client.recv(65536)[9:12].decode() or "closed"
            except TimeoutError:
                if self._attack.hangs_up:
                    return "hung up"
            except OSError:
                return "reset"
        return "unanswered"


def measure(attack: Attack, models: Path, cache: Path, seconds: float) -> str:
    """A row of the table."""
    with Server(models, cache) as server:
        quiet = server.neighbour(seconds / 2)
        with MemoryWatch(server.pid) as memory, Attackers(server.port, attack) as attackers:
            try:
                attacked = server.neighbour(seconds)
            except subprocess.CalledProcessError as error:
                return f"| {attack.name} | **failed**: {error.stderr.decode()[-200:].strip()} | | | | | |"
        time.sleep(1)
        used_s = server.cpu_s()
        time.sleep(1)
        left = server.cpu_s() - used_s
    pairs = [_pair(quiet[name], attacked[name]) for name in ("infer", "predict")]
    health = f"{max(quiet['health']):.0f} → {max(attacked['health']):.0f}"
    answers = ", ".join(f"{count} × {answer}" for answer, count in attackers.answers.most_common())
    return (
        f"| {attack.name} | {pairs[0]} | {pairs[1]} | {health} "
        f"| +{memory.peak_mb - memory.quiet_mb:.0f} | {answers} | {100 * left:.0f} % |"
    )


def _pair(quiet_ms: list[float], attacked_ms: list[float]) -> str:
    quiet, attacked = _p99(quiet_ms), _p99(attacked_ms)
    return f"{quiet:.1f} → {attacked:.1f} ({attacked / quiet:.1f} ×)"


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def main() -> None:
    """Measure, one attack after another."""
    parser = new_parser(sys.modules[__name__])
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder with a model digits")
    parser.add_argument("--only", help=f"attacks, separated by commas: {', '.join(ATTACKS)}")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each attack")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(ATTACKS)
    if unknown := [name for name in names if name not in ATTACKS]:
        parser.error(f"no such attack: {', '.join(unknown)}; there are {', '.join(ATTACKS)}")
    load = os.getloadavg()[0]
    print(f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores, load {load:.1f} before the first\n")
    print(HEAD, RULE, sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="foldserve-attacks-") as cache:
        for attack in choose(names):
            print(measure(attack, arguments.models, Path(cache), arguments.seconds), flush=True)


if __name__ == "__main__":
    main()
