"""Which code runs: the hot path as machine code, where it was compiled from exactly these sources.

In: the folder of this package.  Out: the folder of its extension modules, or None.

    _compiled/<digest of every source, of the interpreter and the machine>/service/….so

An edited source has another digest, so compiled code is never older than the text that one reads. Without a
compiler everything runs interpreted: the same answers, fewer of them (docs/decisions/0021-compiled.md).
"""

import hashlib
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

FOLDER = "_compiled"
SWITCH = "FOLDSERVE_COMPILED"  # "0" runs the sources


def digest_of(package: Path) -> str:
    """Names the sources of `package` and what they would be compiled for."""
    digest = hashlib.sha256(EXTENSION_SUFFIXES[0].encode())  # interpreter, machine, C library
    for path in sorted(package.rglob("*.py")):
        digest.update(f"\0{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def find_compiled(package: Path) -> Path | None:
    """Where the extension modules of `package` are, if they are there and wanted."""
    if os.environ.get(SWITCH) == "0" or not (package / FOLDER).is_dir():
        return None
    folder = package / FOLDER / digest_of(package)
    return folder if folder.is_dir() else None
