"""A timer that wakes an event loop at the microsecond: asyncio's own timers have a resolution of 1 ms.

In: a loop and a callback.  Out: `at(when)`, on the clock of `time.monotonic()`.  Linux only.
"""

import asyncio
import ctypes
import os
import time
from collections.abc import Callable


class _Spec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


_LIBC = ctypes.CDLL(None, use_errno=True)
_NONBLOCK = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1


class Alarm:
    """A timer with at most one pending time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call = call
        self._timer: int = _LIBC.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        loop.add_reader(self._timer, self._ring)

    def at(self, when: float) -> None:
        """Schedule the callback for `when` (seconds); immediately if that has passed."""
        seconds, rest = divmod(max(when, 1e-9), 1)
        spec = _Spec(0, 0, int(seconds), max(1, int(rest * 1e9)))
        if _LIBC.timerfd_settime(self._timer, _ABSOLUTE, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        self._loop.remove_reader(self._timer)
        os.close(self._timer)

    def _ring(self) -> None:
        os.read(self._timer, 8)
        self._call()
