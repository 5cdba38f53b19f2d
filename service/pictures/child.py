"""A process that decodes pictures, and may be killed meanwhile: `python -m service.pictures.child`.

In: requests on stdin, one after another.  Out: their answers on stdout; the process ends when stdin does.

    request   REQUEST: length of the target, bytes of memory, how many files │ target │ lengths │ files
    answer    ANSWER: kind, length, index of a file │ pixels (N, C, H, W) uint8, or why not, in UTF-8

Imports numpy, Pillow and the contract. It runs what decoders make of hostile bytes, so its parent reads plain
bytes and nothing else: a pickle would let a decoder that was taken over run code there.
"""

import ctypes
import os
import resource
import signal
import struct
from pathlib import Path
from typing import BinaryIO

from PIL.Image import init

from service.contract.pictures import PictureError, Target, UnknownFormatError, read_pixels

REQUEST = struct.Struct("<IQI")
LENGTH = struct.Struct("<Q")
ANSWER = struct.Struct("<1sQI")
READY = b"r"
PIXELS = b"p"
UNKNOWN = b"u"
FAILED = b"f"

MARGIN_BYTES = 32 << 20  # beside a picture: Python's own objects, and what malloc rounds up

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main() -> None:
    """Answer requests until there are no more."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    requests, answers = _take_streams()
    init()  # Pillow's formats: what they import counts as idle memory
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    idle_bytes = _address_space()
    _answer(answers, READY, b"")
    while head := requests.read(REQUEST.size):
        target_length, memory, count = REQUEST.unpack(head)
        target = Target.from_json(requests.read(target_length))
        lengths = [size for (size,) in LENGTH.iter_unpack(requests.read(count * LENGTH.size))]
        _limit_memory(idle_bytes + memory + MARGIN_BYTES)
        contents = [requests.read(length) for length in lengths]  # all, even if the first fails
        _answer(answers, *_decode(contents, target))


def _decode(contents: list[bytes], target: Target) -> tuple[bytes, bytes, int]:
    pixels = bytearray()
    for index, content in enumerate(contents):
        try:
            pixels += read_pixels(content, target).tobytes()
        except UnknownFormatError as error:
            return UNKNOWN, str(error).encode(), index
        except PictureError as error:
            return FAILED, str(error).encode(), index
    return PIXELS, bytes(pixels), 0


def _answer(answers: BinaryIO, kind: bytes, content: bytes, index: int = 0) -> None:
    answers.write(ANSWER.pack(kind, len(content), index) + content)
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


if __name__ == "__main__":
    main()
