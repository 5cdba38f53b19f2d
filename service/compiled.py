"""Which code runs: the hot path as machine code, where the build made it of exactly these sources.

In: what setup.py left beside the sources.  Out: the modules that run compiled, or a CompiledError.

    service/batching/job.py                  the source
    service/batching/job.cpython-311-….so    what Python imports in its place, where it was compiled
    service/_hotpath.json                    {"service/batching/job.py": sha-256 of what was compiled, …}

Python prefers an extension module to the source beside it, whatever their age. So the commands check here,
before they import anything that may be compiled, that no source was edited since (decision 21).
"""

import hashlib
import json
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAMP = "service/_hotpath.json"
LIBRARY = "service/_hotpath__mypyc"
SUFFIX = EXTENSION_SUFFIXES[0]  # of this interpreter on this machine: another one runs the sources


class CompiledError(Exception):
    """What would run is not what the sources say."""


def compiled_modules(root: Path = ROOT) -> list[str]:
    """Dotted names of the modules below `root` that run as machine code; none where all is interpreted.

    CompiledError if a source differs from what was compiled, or a build was cut off.
    """
    if not (root / (LIBRARY + SUFFIX)).is_file():
        return []
    is_checkout = (root / "setup.py").is_file()
    remedy = (
        "`make compiled` compiles again, `make interpreted` removes what was compiled"
        if is_checkout
        else "install foldserve again"
    )
    try:
        digests: dict[str, str] = json.loads((root / STAMP).read_bytes())
    except FileNotFoundError:
        raise CompiledError(f"compiling {root / 'service'} was cut off; {remedy}") from None
    for path, digest in digests.items():
        source = root / path
        if not source.is_file():
            raise CompiledError(f"{source} was compiled and is gone; {remedy}")
        if hashlib.sha256(source.read_bytes()).hexdigest() != digest:
            raise CompiledError(f"{source} was edited since it was compiled; {remedy}")
    return [path.rpartition(".")[0].replace("/", ".") for path in digests]
