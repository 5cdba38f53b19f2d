"""Servers as process trees: started on their cores, measured through /proc, ended with all their children.

In: a command.  Out: a `Server`; `accounting` measures the CPU time of servers, driver and all others.

Every process that a server starts stays our descendant, even if it detaches: this process adopts orphans.
One server runs at a time, and the driver's process has ended when `accounting` closes.
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

STOP_S = 15.0
GRACE_S = 3.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PR_SET_CHILD_SUBREAPER = 36


def prepare() -> None:
    """Adopt orphaned descendants from now on, and let children open as many files as the system allows."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))


class Server:
    """A running command and all that it starts."""

    def __init__(
        self, command: list[str], log: Path, cwd: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        self._others = {pid for pid, _ in descendants()}
        with log.open("wb") as output:
            self._root = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def has_ended(self) -> bool:
        return self._root.poll() is not None

    def last_line(self) -> str:
        """The last line of its output, at most 200 characters."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].strip()[-200:] if lines else "it wrote nothing"

    def stop(self) -> None:
        """Send SIGTERM to the first process, then to the remaining ones; those that still run are killed."""
        if not self.has_ended:
            self._root.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._root.wait(STOP_S)
        for ending in (signal.SIGTERM, signal.SIGKILL):
            limit = time.monotonic() + GRACE_S
            for pid in self._alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, ending)
            while self._alive() and time.monotonic() < limit:
                time.sleep(0.02)
        self._root.wait()

    def _alive(self) -> list[int]:
        """The ids of its running processes; adopted ones that have ended are reaped."""
        alive = []
        for pid, fields in descendants():
            if pid in self._others:
                continue
            if fields[0] != "Z":
                alive.append(pid)
            elif pid != self._root.pid:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        return alive


@dataclass
class Account:
    """CPU seconds of all servers; number of cores that other processes used."""

    server_s: float = 0.0
    others_cores: float = 0.0


@contextlib.contextmanager
def accounting() -> Iterator[Account]:
    """Measure the block; the yielded account is filled in when it ends."""
    account, begun = Account(), time.perf_counter()
    machine, servers, drivers = _machine_seconds(), _server_seconds(), _driver_seconds()
    yield account
    account.server_s = _server_seconds() - servers
    known = account.server_s + _driver_seconds() - drivers
    account.others_cores = (_machine_seconds() - machine - known) / (time.perf_counter() - begun)


def resident_bytes() -> int:
    """Resident memory of all descendants; shared pages count once per process."""
    total = 0
    for pid, _ in descendants():
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    return total


def descendants() -> list[tuple[int, list[str]]]:
    """Every process below this one, with its /proc/PID/stat from the state on."""
    stats: dict[int, list[str]] = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                stats[int(entry.name)] = fields
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, pending = [], [os.getpid()]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return [(pid, stats[pid]) for pid in found]


def _server_seconds() -> float:
    """User and system time of every descendant, and of their own ended and reaped children."""
    return sum(sum(map(int, fields[11:15])) for _, fields in descendants()) / _TICKS_PER_S


def _driver_seconds() -> float:
    """User and system time of our own ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _machine_seconds() -> float:
    """User, nice, system and stolen time of all cores; not interrupts, which serve all processes' packets."""
    fields = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    return sum(int(fields[place]) for place in (0, 1, 2, 7)) / _TICKS_PER_S
