"""Arrays in .npz archives that others wrote, and that may be damaged.

In: an open file.  Out: its arrays by name, or an ArchiveError in one sentence.  Nothing is unpickled.
"""

import lzma
import threading
import zipfile
import zlib
from collections.abc import Callable
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
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ArchiveError("it holds one array without a name")
        with archive, _READING:
            return {name: archive[name] for name in archive.files if wanted(name)}
    except ArchiveError:
        raise
    except DAMAGED as error:
        raise ArchiveError(first_line(error) or type(error).__name__) from error
