"""Several workers behind one port: started, replaced when they die, stopped together.

In: settings with `workers` over 1, sockets that share the port.  Out: the exit code.

Each worker has a socket of its own on the port (SO_REUSEPORT), which stays open here: what connects while a
worker is being replaced waits for the new one. One that dies young is replaced after a pause that doubles.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from service.settings import Settings
from service.telemetry.worker_group import Post

YOUNG_S = 10.0
LONGEST_PAUSE_S = 30.0
_log = logging.getLogger("foldserve")


@dataclass
class Member:
    """One place in the crew: who fills it, since when, and how long to wait before filling it again."""

    process: BaseProcess
    since: float
    pause_s: float = 0.0


class Supervisor:
    """Keeps a crew of workers whole until told to stop."""

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket], folder: Path) -> None:
        self._settings = settings
        self._sockets = sockets
        self._folder = folder
        # Its end here closes when this process dies, however it dies; the workers watch theirs.
        self._watched, self._held = os.pipe()
        self._wakes, self._wake = os.pipe()
        self._signals = 0

    def run(self) -> int:
        """Start the workers and keep them; returns when all have ended after a signal."""
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, self._on_signal)
        crew = [Member(self._start(index), time.monotonic()) for index in range(len(self._sockets))]
        while not self._signals:
            wait([*(member.process.sentinel for member in crew), self._wakes], timeout=1.0)
            for index, member in enumerate(crew):
                if not member.process.is_alive() and not self._signals:
                    crew[index] = self._replace(index, member)
        for member in crew:
            _tell(member.process, signal.SIGTERM)
        told = self._signals
        while alive := [member.process for member in crew if member.process.is_alive()]:
            wait([*(process.sentinel for process in alive), self._wakes], timeout=1.0)
            if self._signals > told:
                for process in alive:
                    process.kill()
        # A worker that was told to end before it could answer signals has ended as it was told.
        told_codes = (None, 0, -signal.SIGTERM)
        codes = [member.process.exitcode for member in crew]
        return max(0 if code in told_codes else abs(code or 0) for code in codes)

    def _start(self, index: int, *, replaces: bool = False) -> BaseProcess:
        post = Post(index=index, size=len(self._sockets), folder=self._folder, replaces=replaces)
        process = get_context("spawn").Process(
            target=_work, args=(self._settings, self._sockets[index], post, _Inherited(self._watched))
        )
        process.start()
        return process

    def _replace(self, index: int, member: Member) -> Member:
        lived_s = time.monotonic() - member.since
        pause_s = min(max(0.5, 2 * member.pause_s), LONGEST_PAUSE_S) if lived_s < YOUNG_S else 0.0
        _log.error(
            "event=worker_died index=%d exit_code=%s lived_s=%.1f pause_s=%.1f",
            *(index, member.process.exitcode, lived_s, pause_s),
        )
        if pause_s:
            wait([self._wakes], timeout=pause_s)
        return Member(self._start(index, replaces=True), time.monotonic(), pause_s)

    def _on_signal(self, sig: int, frame: object) -> None:
        self._signals += 1
        os.write(self._wake, b".")


class _Inherited:
    """A file descriptor on its way to a spawned process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        from multiprocessing.reduction import DupFd

        return _received, (DupFd(self.descriptor),)


def _received(duplicate: object) -> int:
    return duplicate.detach()  # type: ignore[attr-defined,no-any-return]


def _work(settings: Settings, sock: socket.socket, post: Post, parent: int) -> None:
    from service.processes.worker import run_worker

    sys.exit(run_worker(settings, sock, post, parent))


def _tell(process: BaseProcess, sig: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.pid is not None:
            os.kill(process.pid, sig)


def supervise(settings: Settings, sockets: Sequence[socket.socket]) -> int:
    """Run the crew; the exit code."""
    with tempfile.TemporaryDirectory(prefix="foldserve-") as folder:
        return Supervisor(settings, sockets, Path(folder)).run()
