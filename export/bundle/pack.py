"""Pack a proved graph into the next version of a model, whole or not at all.

In: `models/NAME` and a bundle's content.  Out: `models/NAME/VERSION/`, opened once by the reader.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from export.errors import ExportError
from service.contract.bundle import MANIFEST_FILE, Bundle, open_bundle
from service.contract.files import aside, copy, write


def next_version(folder: Path) -> int:
    """One more than the highest decimal version in `folder`."""
    versions = [int(path.name) for path in folder.glob("*") if path.name.isascii() and path.name.isdigit()]
    return max(versions, default=0) + 1


def pack(folder: Path, files: Mapping[str, bytes], manifest: bytes) -> Bundle:
    """Write the files aside, reopen them as the service would, rename; raises ExportError or BundleError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with aside(folder / "version", is_shared=True) as new:
            new.mkdir()
            for name, content in {**files, MANIFEST_FILE: manifest}.items():
                write(new / name, content)
            open_bundle(new, allow_unproved=True)
            new.chmod(0o755)
            return open_bundle(_publish(new, folder), allow_unproved=True)
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written: {error.strerror}") from error


def write_whole(files: Mapping[Path, bytes | Path]) -> None:
    """Write all files aside, or copy them from others, then rename all.

    Raises ExportError, and then none has changed.
    """
    for path in files:
        _check_target(path)
    try:
        with ExitStack() as stack:
            places = {path: stack.enter_context(aside(path, is_shared=True)) for path in files}
            for path, content in files.items():
                if isinstance(content, Path):
                    copy(content, places[path])
                else:
                    write(places[path], content)
            for path, place in places.items():
                place.replace(path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror}") from error


def _check_target(path: Path) -> None:
    try:
        if not path.name or path.is_dir():
            raise ExportError(f"'{path}' is a folder, expected a file to write")
        if path.exists() and not path.is_file():
            raise ExportError(f"'{path}' is no regular file: it would be replaced")
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror}") from error


def _publish(new: Path, folder: Path) -> Path:
    """Rename to the next version; another export may have taken it meanwhile."""
    while True:
        final = folder / str(next_version(folder))
        try:
            return new.rename(final)
        except OSError:
            if not final.exists():
                raise
