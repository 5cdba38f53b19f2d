"""Files and folders that are whole or not there: written aside, flushed to the disk, renamed.

In: a path and its content.  Out: the content at the path, or an OSError and what was there before.

    .NAME.partial     what is being written; a killed writer leaves it, and the next one overwrites it
    NAME              renamed from it once it is whole

A reader of NAME always finds the last good content, because a rename is one step for the file system.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_NAME = 100  # characters of a name that are repeated in the name aside: file systems allow 255 bytes


@contextmanager
def aside(path: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder to; on leaving, what still lies there is removed.

    Several writers of one path at a time each need a name of their own: `is_shared` puts the process and the
    thread in it. Without it the name is always the same, so that killed writers leave one file and not many.
    """
    writer = f"-{os.getpid()}-{threading.get_native_id()}" if is_shared else ""
    place = path.with_name(f".{path.name[:MAX_NAME]}.partial{writer}")
    _remove(place)
    try:
        yield place
    finally:
        _remove(place)


def write(path: Path, content: bytes) -> None:
    """Write `content` to `path` and flush it to the disk; raises OSError."""
    path.write_bytes(content)
    sync(path)


def copy(source: Path, path: Path) -> None:
    """The same with the content of another file, which takes a tenth of the time; raises OSError."""
    shutil.copyfile(source, path)
    sync(path)


def sync(path: Path) -> None:
    """Flush a file to the disk: without it, a power cut after the rename may leave an empty file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def publish(path: Path, content: bytes, *, is_shared: bool = False) -> None:
    """Replace the file `path` by `content` in one step; see `aside` for `is_shared`.  Raises OSError."""
    with aside(path, is_shared=is_shared) as place:
        write(place, content)
        place.replace(path)


def _remove(place: Path) -> None:
    """Remove a file or a folder, as far as that can be done: a leftover is no reason to fail."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
        return
    try:
        place.unlink(missing_ok=True)
    except OSError:
        return
