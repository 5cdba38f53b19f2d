"""Standard error that never makes its writer wait, however slowly it is read.

In: text.  Out: the same bytes on file descriptor 2, from a thread.

A log line that is written on the event loop waits for the reader of the pipe: a blocked log collector would
stop every request, and keep the process from ending.  Here a line is only put into a queue.  Lines that do
not fit are counted and dropped, and a line reports them once there is room.
"""

import os
import sys
import threading
from collections import deque

MAX_WAITING = 8 * 1024 * 1024  # characters
DRAIN_S = 1.0  # maximum wait for queued lines at the end of the process


class StandardError:
    """Replaces `sys.stderr`; any thread may write."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._waiting: deque[str] = deque()
        self._num_waiting = 0
        self._num_dropped = 0
        self._changed = threading.Condition()
        self._is_writing = False
        threading.Thread(target=self._work, name="stderr", daemon=True).start()

    def write(self, text: str) -> int:
        """Queue `text`, or drop all of it if too much is queued."""
        with self._changed:
            if self._num_waiting + len(text) > MAX_WAITING:
                self._num_dropped += 1
            else:
                self._waiting.append(text)
                self._num_waiting += len(text)
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Does nothing: this class never waits for the reader; see `drain`."""

    def drain(self, timeout_s: float = DRAIN_S) -> bool:
        """Wait until everything is written, at most `timeout_s`; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._is_writing, timeout_s)

    def fileno(self) -> int:
        """The descriptor that is written to."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                text = "".join(self._waiting)
                if self._num_dropped:
                    text += (
                        f"foldserve: {self._num_dropped} lines were not written: stderr is read too slowly\n"
                    )
                self._waiting.clear()
                self._num_waiting = self._num_dropped = 0
                self._is_writing = True
            self._write(text.encode(self.encoding, self.errors))
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except OSError:  # the reader is gone
                return


def never_wait_for_stderr() -> None:
    """Replace `sys.stderr` by a `StandardError`, for the rest of this process."""
    if not isinstance(sys.stderr, StandardError):
        sys.stderr = StandardError()


def drain_stderr() -> None:
    """Wait shortly for queued lines to be written, if `never_wait_for_stderr` was called."""
    if isinstance(sys.stderr, StandardError):
        sys.stderr.drain()
