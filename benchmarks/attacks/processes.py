"""A process and its children, as /proc shows them: memory, processor time, whether they still run."""

import contextlib
import os
import threading
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_EVERY_S = 0.01


class MemoryWatch:
    """Resident MiB of a process and its children together, read every 10 ms; `peak_mb` of them."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._program = _program(pid)
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
        while not self._is_over.wait(_EVERY_S):
            self.peak_mb = max(self.peak_mb, self._now_mb())

    def _now_mb(self) -> float:
        # A child that has not begun to run its own program shares all pages with its parent.
        children = [pid for pid in children_of(self._pid) if _program(pid) != self._program]
        return sum(resident_mb(pid) for pid in (self._pid, *children))


def _program(pid: int) -> bytes:
    """The command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # the thread may have ended
            children += map(int, (task / "children").read_text().split())
    return children


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MiB; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * _PAGE_BYTES / (1 << 20)


def cpu_s(pid: int) -> float:
    """Processor time that a process has used, in user and system mode; 0 if it has ended."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S if fields else 0.0


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
