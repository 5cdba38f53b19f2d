"""A server to be attacked: `python -m service` in a process of its own, with default limits."""

import http.client
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.attacks.processes import children_of, cpu_s

READY_S = 60.0
QUIET_LOAD = 0.2  # of a core, over a tenth of a second: nothing is left of an attack
TICK_S = 0.1
LONGEST_S = 30.0


class Server:
    """It runs until the block ends, with further `flags`; ready once `model` is."""

    def __init__(self, models: Path, cache: Path, *flags: str, model: str = "digits") -> None:
        self._model = model
        self.port = _free_port()
        command = [sys.executable, "-m", "service", "--models", str(models), "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*command, "--cache", str(cache), "--request-log", "off", *flags], stderr=subprocess.DEVNULL
        )
        self.pid = self._process.pid

    def __enter__(self) -> "Server":
        end = time.monotonic() + READY_S
        while time.monotonic() < end and self._process.poll() is None:
            if self._is_ready():
                return self
            time.sleep(0.1)
        self.__exit__()
        raise SystemExit(f"the server did not get ready; is there a model {self._model}? (make model)")

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def neighbour(self, seconds: float) -> dict[str, list[float]]:
        """What a well-behaved client measures in so many seconds, in milliseconds."""
        command = [sys.executable, "-m", "benchmarks.attacks.neighbour", str(self.port), str(seconds)]
        output = subprocess.run(command, capture_output=True, check=True).stdout
        measured: dict[str, list[float]] = json.loads(output)
        return measured

    def busy_s(self) -> float:
        """Seconds from now until it, and what it has started, do nothing for half a second."""
        begun = last_busy = time.monotonic()
        used_s = self._cpu_s()
        while (now := time.monotonic()) < min(begun + LONGEST_S, last_busy + 5 * TICK_S):
            time.sleep(TICK_S)
            used_s, before_s = self._cpu_s(), used_s
            if used_s - before_s > QUIET_LOAD * TICK_S:
                last_busy = time.monotonic()
        return min(last_busy, now) - begun if last_busy > begun else 0.0

    def terminate(self) -> float:
        """Seconds from SIGTERM to the end of the process; infinite if it does not end."""
        begun = time.monotonic()
        self._process.terminate()
        try:
            self._process.wait(2 * LONGEST_S)
        except subprocess.TimeoutExpired:
            return float("inf")
        return time.monotonic() - begun

    def _is_ready(self) -> bool:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=READY_S)
        try:
            client.request("GET", f"/v2/models/{self._model}/ready")
            return client.getresponse().status == 200
        except OSError:
            return False
        finally:
            client.close()

    def _cpu_s(self) -> float:
        return sum(cpu_s(pid) for pid in (self.pid, *children_of(self.pid)))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port
