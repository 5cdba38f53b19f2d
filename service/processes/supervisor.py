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
from service.telemetry.worker_group import WorkerSlot

YOUNG_S = 10.0
MAX_PAUSE_S = 30.0
_log = logging.getLogger("foldserve")


@dataclass
class Worker:
    """The process in one slot, when it was started (monotonic), and the pause that was made before that."""

    process: BaseProcess
    since: float
    pause_s: float = 0.0


class Supervisor:
    """Keeps every slot filled with a live worker until a signal comes."""

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
        workers = [Worker(self._start(index), time.monotonic()) for index in range(len(self._sockets))]
        while not self._signals:
            wait([*(worker.process.sentinel for worker in workers), self._wakes], timeout=1.0)
            for index, worker in enumerate(workers):
                if not worker.process.is_alive() and not self._signals:
                    workers[index] = self._replace(index, worker)
        for worker in workers:
            _send_signal(worker.process, signal.SIGTERM)
        signals_before = self._signals
        while alive := [worker.process for worker in workers if worker.process.is_alive()]:
            wait([*(process.sentinel for process in alive), self._wakes], timeout=1.0)
            if self._signals > signals_before:  # a second signal: at once
                for process in alive:
                    process.kill()
        # A worker that SIGTERM reached before it could handle signals has ended as it was meant to.
        clean_codes = (None, 0, -signal.SIGTERM)
        codes = [worker.process.exitcode for worker in workers]
        return max(0 if code in clean_codes else abs(code or 0) for code in codes)

    def _start(self, index: int, *, replaces: bool = False) -> BaseProcess:
        slot = WorkerSlot(index=index, size=len(self._sockets), folder=self._folder, replaces=replaces)
        process = get_context("spawn").Process(
            target=_work, args=(self._settings, self._sockets[index], slot, _Inherited(self._watched))
        )
        process.start()
        return process

    def _replace(self, index: int, worker: Worker) -> Worker:
        lived_s = time.monotonic() - worker.since
        pause_s = min(max(0.5, 2 * worker.pause_s), MAX_PAUSE_S) if lived_s < YOUNG_S else 0.0
        _log.error(
            "event=worker_died index=%d exit_code=%s lived_s=%.1f pause_s=%.1f",
            *(index, worker.process.exitcode, lived_s, pause_s),
        )
        if pause_s:
            wait([self._wakes], timeout=pause_s)
        return Worker(self._start(index, replaces=True), time.monotonic(), pause_s)

    def _on_signal(self, sig: int, frame: object) -> None:
        self._signals += 1
        os.write(self._wake, b".")


class _Inherited:
    """A file descriptor that is duplicated when it is pickled into a spawned process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        from multiprocessing.reduction import DupFd

        return _received, (DupFd(self.descriptor),)


def _received(duplicate: object) -> int:
    return duplicate.detach()  # type: ignore[attr-defined,no-any-return]


def _work(settings: Settings, sock: socket.socket, slot: WorkerSlot, parent: int) -> None:
    from service.processes.worker import run_worker

    sys.exit(run_worker(settings, sock, slot, parent))


def _send_signal(process: BaseProcess, sig: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.pid is not None:
            os.kill(process.pid, sig)


def supervise(settings: Settings, sockets: Sequence[socket.socket]) -> int:
    """Run one worker on each of `sockets` until a signal; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="foldserve-") as folder:
        return Supervisor(settings, sockets, Path(folder)).run()
