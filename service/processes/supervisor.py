"""Several workers behind one port: started, replaced when they die, stopped together.

In: settings with `workers` over 1, sockets that share the port.  Out: the exit code.

Each worker has a socket of its own on the port (SO_REUSEPORT), which stays open here: what connects while a
worker is being replaced waits for the new one. One that dies young is replaced after a pause that doubles.

A worker's event loop writes a byte into a pipe twice a second.  Where none comes for `worker_timeout_s`, its
loop is blocked or its process stopped: it is killed and replaced, for the kernel still gives it connections.

At a signal the sockets are closed here, so that a connection which comes when every worker has closed its own
is refused at once instead of waiting for a process that will never accept it.
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
from service.telemetry.standard_error import drain_stderr
from service.telemetry.worker_group import WorkerSlot

YOUNG_S = 10.0
START_TIMEOUT_S = 120.0  # until the first beat: importing takes seconds on a busy machine
EXTRA_STOP_S = 5.0  # for what a worker does after its connections are closed
MAX_PAUSE_S = 30.0
PREFIX = "foldserve-"  # of the folder with the sockets; eight characters follow
MAX_SOCKET_BYTES = 107  # the address of a Unix socket, without the zero at its end
_log = logging.getLogger("foldserve")


@dataclass
class Worker:
    """The process in one slot, the pipe that it beats into, when it was started and when it should beat next.

    Times are monotonic; `pause_s` is the pause that was made before it was started.
    """

    process: BaseProcess
    beats: int
    since: float
    due: float
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
        workers = [self._start(index) for index in range(len(self._sockets))]
        while not self._signals:
            self._listen(workers)
            for index, worker in enumerate(workers):
                if not worker.process.is_alive() and not self._signals:
                    workers[index] = self._replace(index, worker)
        for sock in self._sockets:
            sock.close()
        for worker in workers:
            _send_signal(worker.process, signal.SIGTERM)
        self._wait_for_end(workers)
        # A worker that SIGTERM reached before it could handle signals has ended as it was meant to.
        clean_codes = (None, 0, -signal.SIGTERM)
        codes = [worker.process.exitcode for worker in workers]
        return max(0 if code in clean_codes else abs(code or 0) for code in codes)

    def _wait_for_end(self, workers: list[Worker]) -> None:
        """Until every worker has ended; after the limit, or at a second signal, they are killed."""
        settings = self._settings
        until = time.monotonic() + settings.drain_delay_s + settings.shutdown_timeout_s + EXTRA_STOP_S
        signals_before = self._signals
        while alive := [worker for worker in workers if worker.process.is_alive()]:
            self._listen(alive)
            if self._signals > signals_before or time.monotonic() > until:
                for worker in alive:
                    worker.process.kill()

    def _listen(self, workers: list[Worker]) -> None:
        """Wait for a beat, an end or a signal, at most a second; kill workers whose beat is overdue."""
        sources = [source for worker in workers for source in (worker.process.sentinel, worker.beats)]
        ready = wait([*sources, self._wakes], timeout=1.0)
        now = time.monotonic()
        for index, worker in enumerate(workers):
            if worker.beats in ready and os.read(worker.beats, 4096):
                worker.due = now + self._settings.worker_timeout_s
            elif worker.beats in ready:  # closed: it ends
                worker.process.join(1.0)
            elif now > worker.due and worker.process.is_alive():
                _log.error("event=worker_stalled index=%d pid=%d", index, worker.process.pid)
                worker.process.kill()
                worker.process.join(EXTRA_STOP_S)

    def _start(self, index: int, *, replaces: bool = False, pause_s: float = 0.0) -> Worker:
        slot = WorkerSlot(index=index, size=len(self._sockets), folder=self._folder, replaces=replaces)
        beats, beat = os.pipe()
        process = get_context("spawn").Process(
            target=_work,
            args=(self._settings, self._sockets[index], slot, _Inherited(self._watched), _Inherited(beat)),
        )
        process.start()
        os.close(beat)
        now = time.monotonic()
        return Worker(process, beats, since=now, due=now + START_TIMEOUT_S, pause_s=pause_s)

    def _replace(self, index: int, worker: Worker) -> Worker:
        os.close(worker.beats)
        lived_s = time.monotonic() - worker.since
        pause_s = min(max(0.5, 2 * worker.pause_s), MAX_PAUSE_S) if lived_s < YOUNG_S else 0.0
        _log.error(
            "event=worker_died index=%d exit_code=%s lived_s=%.1f pause_s=%.1f",
            *(index, worker.process.exitcode, lived_s, pause_s),
        )
        if pause_s:
            wait([self._wakes], timeout=pause_s)
        return self._start(index, replaces=True, pause_s=pause_s)

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


def _work(settings: Settings, sock: socket.socket, slot: WorkerSlot, parent: int, beat: int) -> None:
    from service.processes.worker import run_worker

    sys.exit(run_worker(settings, sock, slot, parent, beat))


def _send_signal(process: BaseProcess, sig: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.pid is not None:
            os.kill(process.pid, sig)


def refused_folder(workers: int) -> str | None:
    """Why the sockets of so many workers cannot be in the folder for temporary files, or None.

    Without this check each worker would die when it makes its socket, and be replaced for ever.
    """
    folder = Path(tempfile.gettempdir())
    longest = WorkerSlot(folder=folder / f"{PREFIX}12345678").socket_of(workers - 1)
    if len(os.fsencode(longest)) <= MAX_SOCKET_BYTES:
        return None
    return f"the workers' sockets cannot be in '{folder}', a path too long: set TMPDIR to a shorter one"


def supervise(settings: Settings, sockets: Sequence[socket.socket]) -> int:
    """Run one worker on each of `sockets` until a signal; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        code = Supervisor(settings, sockets, Path(folder)).run()
    drain_stderr()
    return code
