"""Arrays in .npz archives that others wrote, and that may be damaged.

In: an archive.  Out: its arrays by name, or an ArchiveError in one sentence.  Nothing is unpickled.

`read_arrays` reads them whole.  `stream_rows` gives the next rows of each, and holds no more: an archive may
be larger than the memory.
"""

import lzma
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from service.contract.text import first_line

DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    MemoryError,  # a header of an array of 2⁶⁰ numbers
    RuntimeError,  # encrypted, or compressed by a method that Python does not know
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What NumPy and zipfile raise on archives with changed bytes."""

# NumPy parses the head of each array with `ast`, whose count of its own depth all threads share in Python
# 3.11.7 and others (CPython issue 106905): of two models that were loaded at once, one got a SystemError.
_READING = threading.Lock()


class ArchiveError(ValueError):
    """The file is no archive of plain arrays."""


def read_arrays(file: IO[bytes], wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray]:
    """The arrays of an .npz archive whose names are `wanted`; raises ArchiveError."""
    try:
        # Of a file of any other kind NumPy says that it might be unpickled, which would run its code.
        if file.read(2) not in (b"PK", b"\x93N"):
            raise ArchiveError("it is no zip archive")
        file.seek(0)
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ArchiveError("it holds one array without a name")
        with archive, _READING:
            return {name: archive[name] for name in archive.files if wanted(name)}
    except ArchiveError:
        raise
    except DAMAGED as error:
        raise ArchiveError(first_line(error) or type(error).__name__) from error


_SKIP = 1 << 20  # bytes at a time

Head = tuple[tuple[int, ...], np.dtype]
"""Shape and datatype of an array."""


def array_heads(path: Path) -> dict[str, Head]:
    """Shape and datatype of each array of an .npz archive; raises ArchiveError."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            heads = {}
            for name in names:
                with archive.open(f"{name}.npy") as file:
                    shape, _, dtype = _read_head(file)
                    heads[name] = shape, dtype
            return heads
    except DAMAGED as error:
        raise ArchiveError(first_line(error) or type(error).__name__) from error


def stream_rows(
    path: Path, names: Sequence[str], size: int, start: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """`size` rows of each of these arrays at a time, the last time fewer, from row `start` on.

    Raises ArchiveError; for changed bytes only after all rows of an array, where its checksum is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = [_rows(archive, name, size, start) for name in names]
            for arrays in zip(*parts, strict=True):
                yield dict(zip(names, arrays, strict=True))
    except DAMAGED as error:
        raise ArchiveError(first_line(error) or type(error).__name__) from error


def _rows(archive: zipfile.ZipFile, name: str, size: int, start: int) -> Iterator[np.ndarray]:
    with archive.open(f"{name}.npy") as file:
        shape, is_fortran, dtype = _read_head(file)
        if not shape:
            raise ValueError(f"array {name} is one number, expected rows")
        if is_fortran:  # the numbers of a row are all over the file
            columns = np.frombuffer(file.read(prod(shape) * dtype.itemsize), dtype).reshape(shape, order="F")
            yield from (columns[first : first + size] for first in range(start, shape[0], size))
            return
        row_bytes = prod(shape[1:]) * dtype.itemsize
        skipped = start * row_bytes
        while skipped and (content := file.read(min(skipped, _SKIP))):  # a seek would leave out the checksum
            skipped -= len(content)
        for first in range(start, shape[0], size):
            num_rows = min(size, shape[0] - first)
            content = file.read(num_rows * row_bytes)
            yield np.frombuffer(content, dtype).reshape(num_rows, *shape[1:])
        if file.read(1):  # a bomb's rest is never read whole; at the end the checksum is compared
            raise ValueError(f"array {name} has more bytes than its shape {shape} holds")


def _read_head(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with _READING:
        shape, is_fortran, dtype = read(file)
    if dtype.hasobject or dtype.itemsize == 0:
        raise ValueError("arrays must hold plain numbers")
    return shape, is_fortran, dtype
