"""The files of a run, which are whole or not there.

In: a path and bytes.  Out: nothing, or an `OutputError`; a killed run leaves the last good file.
"""

import tempfile
from pathlib import Path

import service.contract.files as files
from training.errors import TrainingError


class OutputError(TrainingError):
    """A folder or a file that cannot be written, or a folder that holds another run."""


def publish(path: Path, content: bytes) -> None:
    """Replace the file `path` by `content` in one step; raises OutputError."""
    try:
        files.publish(path, content)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


def prepare_folder(folder: Path) -> None:
    """Make `folder` and try it, so that an unwritable one is an OutputError now, not after an hour."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror}") from None
