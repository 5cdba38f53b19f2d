"""What other clients and the machine notice while one client attacks a server."""

import os
import threading
import time
from pathlib import Path

import httpx

from service_kit import Server, x_request

HEALTH = "/v2/health/live"
INFER = "/v2/models/digits/infer"
_TICKS = os.sysconf("SC_CLK_TCK")


class Neighbour:
    """Asks for health and one row of `digits`, again and again: `slowest_s` of its answers, `failures`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.slowest_s = 0.0
        self.failures: list[str] = []

    def __enter__(self) -> "Neighbour":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(60)

    def _ask(self) -> None:
        row = x_request([0.0] * 784, shape=[1, 1, 28, 28])
        row["inputs"][0]["name"] = "input"
        with httpx.Client(base_url=self._url, timeout=120) as client:
            while not self._is_over.is_set():
                begun = time.perf_counter()
                answers = [client.get(HEALTH), client.post(INFER, json=row)]
                self.slowest_s = max(self.slowest_s, time.perf_counter() - begun)
                self.failures += [answer.text for answer in answers if answer.status_code != 200]


class MemoryWatch:
    """Resident memory of a server and its children together, read every 10 ms; `peak_mb` of it."""

    def __init__(self, server: Server) -> None:
        self._pid = server.process.pid
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self.quiet_mb = self._now_mb()
        self.peak_mb = self.quiet_mb

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(60)

    def _read(self) -> None:
        while not self._is_over.wait(0.01):
            self.peak_mb = max(self.peak_mb, self._now_mb())

    def _now_mb(self) -> float:
        return sum(resident_mb(pid) for pid in (self._pid, *children_of(self._pid)))


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # the thread has ended
    return children


def resident_mb(pid: int) -> float:
    """Resident memory of a process; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def cpu_s(pid: int) -> float:
    """Processor time that a process has used, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
