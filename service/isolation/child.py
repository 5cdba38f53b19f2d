"""The inside of an isolated process: answers requests on stdin until it is killed or stdin ends.

In: bytes and what a room makes of them.  Out: answers on stdout.

    request   REQUEST: bytes of memory, how many parts │ their lengths │ the parts
    answer    ANSWER: kind, length, a number │ content

It runs what decoders make of hostile bytes, so its parent reads plain bytes and nothing else: a pickle would
let a decoder that was taken over run code there.
"""

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

REQUEST = struct.Struct("<QI")
LENGTH = struct.Struct("<Q")
ANSWER = struct.Struct("<1sQI")
READY = b"r"

MARGIN_BYTES = 32 << 20  # Python's own objects, and what malloc rounds up

Answer = tuple[bytes, bytes, int]  # its kind, its content, and a number that the parent understands

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def answer_requests(work: Callable[[list[bytes]], Answer]) -> None:
    """Answer each request with what `work` makes of its parts, until there are no more."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    requests, answers = _take_streams()
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    idle_bytes = _address_space()
    _write(answers, (READY, b"", 0))
    while head := requests.read(REQUEST.size):
        memory, count = REQUEST.unpack(head)
        lengths = [size for (size,) in LENGTH.iter_unpack(requests.read(count * LENGTH.size))]
        _limit_memory(idle_bytes + memory + MARGIN_BYTES)
        parts = [requests.read(length) for length in lengths]  # all, even if the first fails
        _write(answers, work(parts))
        del parts  # or they would stay while the next are read


def _write(answers: BinaryIO, answer: Answer) -> None:
    kind, content, number = answer
    answers.write(ANSWER.pack(kind, len(content), number))
    answers.write(content)
    answers.flush()


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    """stdin and stdout for the parent alone: what a library prints must not end up between two answers."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    return requests, answers


def _address_space() -> int:
    """Bytes of this process's address space, which is what the limit is on."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _limit_memory(num_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, hard))
