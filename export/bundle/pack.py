"""Pack a proved graph into the next version of a model, whole or not at all.

In: `models/NAME` and a bundle's content.  Out: `models/NAME/VERSION/`, opened once by the reader.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from export.errors import ExportError
from service.contract.bundle import MANIFEST_FILE, Bundle, open_bundle


def next_version(folder: Path) -> int:
    """One more than the highest decimal version in `folder`."""
    versions = [int(path.name) for path in folder.glob("*") if path.name.isascii() and path.name.isdigit()]
    return max(versions, default=0) + 1


def pack(folder: Path, files: Mapping[str, bytes], manifest: bytes) -> Bundle:
    """Write the files aside, reopen them as the service would, rename; raises ExportError or BundleError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        for name, content in {**files, MANIFEST_FILE: manifest}.items():
            _write(aside / name, content)
        open_bundle(aside)
        aside.chmod(0o755)
        return open_bundle(_publish(aside, folder))
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_whole(files: Mapping[Path, bytes]) -> None:
    """Write all files aside, then rename all; raises ExportError, and then none has changed."""
    asides = {path: path.parent / f".{path.name[:100]}.partial-{os.getpid()}" for path in files}
    for path in files:
        _check_target(path)
    try:
        for path, content in files.items():
            _write(asides[path], content)
        for path, aside in asides.items():
            aside.replace(path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        for aside in asides.values():
            with contextlib.suppress(OSError):
                aside.unlink()


def _check_target(path: Path) -> None:
    try:
        if not path.name or path.is_dir():
            raise ExportError(f"'{path}' is a folder, expected a file to write")
        if path.exists() and not path.is_file():
            raise ExportError(f"'{path}' is no regular file: it would be replaced")
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror}") from error


def _publish(aside: Path, folder: Path) -> Path:
    """Rename to the next version; another export may have taken it meanwhile."""
    while True:
        final = folder / str(next_version(folder))
        try:
            return aside.rename(final)
        except OSError:
            if not final.exists():
                raise


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
