"""The versions of a model: `models/NAME/VERSION/`, VERSION being decimal without a leading zero.

In: a model's folder.  Out: its versions, newest first; every other name in it is ignored.
"""

import re
from pathlib import Path

from service.contract.bundle import MANIFEST_FILE
from service.contract.manifest import BundleError

_VERSION = re.compile(r"[1-9][0-9]*", re.ASCII)


def is_version(name: str) -> bool:
    """Whether a folder's name is a version."""
    return _VERSION.fullmatch(name) is not None


def find_versions(folder: Path) -> list[str]:
    """The versions in a model's folder, newest first; raises OSError."""
    names = [path.name for path in folder.iterdir() if path.is_dir() and is_version(path.name)]
    return sorted(names, key=int, reverse=True)


def newest(path: Path) -> Path:
    """A bundle's folder itself, or the newest version in a model's folder; raises BundleError.

    So commands take `models/digits` as well as `models/digits/3`.
    """
    if (path / MANIFEST_FILE).exists():
        return path
    try:
        versions = find_versions(path)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from None
    if not versions:
        raise BundleError(f"{path}: holds neither {MANIFEST_FILE} nor a version (1, 2, …)")
    return path / versions[0]
