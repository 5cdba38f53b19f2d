"""Files that are whole or not there: written aside, flushed to the disk, renamed.

In: a path and bytes.  Out: nothing, or an `OutputError`; a killed run leaves the last good file.
"""

import contextlib
import os
import tempfile
from pathlib import Path

from training.errors import TrainingError


class OutputError(TrainingError):
    """A folder or a file that cannot be written, or a folder that holds another run."""


def publish(path: Path, content: bytes) -> None:
    """Put `content` at `path` all at once."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def prepare_folder(folder: Path) -> None:
    """Make `folder` and try it, so that nobody learns after an hour that it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror}") from None
