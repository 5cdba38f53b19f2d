"""The build: the hot path of the service as machine code, with mypyc and a C compiler, where both are.

In: the sources of HOT, and C.  Out: an extension module beside each of them, one library that they share, and
service/_hotpath.json with the digest of every source that was compiled. `python -m service` checks those
digests, so an edited source is never shadowed by what was compiled before.

    make compiled                          python setup.py build_ext --inplace; nothing to do if it is done
    pip install . | python -m build        the same, into the wheel
    pip install --editable .               no extension modules: these sources are about to be edited

Without mypyc, a C compiler or Python.h it says so in one sentence and builds no extension modules: the same
sources run interpreted, and slower (docs/decisions/0021-compiled.md).
"""

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

STAMP = "service/_hotpath.json"  # what service/compiled.py reads
SUFFIX = EXTENSION_SUFFIXES[0]  # of this interpreter on this machine
LIBRARY = "service._hotpath"  # a dotted name: the shared library lies in the package, not beside it

# What runs for each request or each batch. Not the quick way through JSON, which lives by what simdjson
# raises and stops working compiled.
HOT = (
    "batching/admission",
    "batching/batcher",
    "batching/choice",
    "batching/execution",
    "batching/forecast",
    "batching/job",
    "batching/lanes",
    "batching/queue",
    "batching/running",
    "batching/sharing",
    "engine/buffers",
    "engine/engine",
    "http/asgi",
    "http/body",
    "http/channel",
    "http/connection",
    "http/direct",
    "http/exchange",
    "http/flow",
    "http/hosted",
    "http/limits",
    "http/outbox",
    "http/parser",
    "http/pipeline",
    "http/reply",
    "http/shared",
    "http/turns",
    "models/registry",
    "models/served",
    "protocol/classification",
    "protocol/compression",
    "protocol/datatypes",
    "protocol/head",
    "protocol/parameters",
    "protocol/request",
    "protocol/response",
    "protocol/signature",
    "protocol/tensors",
    "routes/infer",
    "routes/infer_call",
    "routes/request_record",
    "telemetry/metrics",
    "telemetry/request_log",
)
# Resizing with Pillow's filters; Pillow itself does it where this is not compiled.
C = "service/contract/_resample.c"
SOURCES = [f"service/{module}.py" for module in HOT]


def unsupported_reason() -> str | None:
    """What is missing to compile here, or None."""
    if importlib.util.find_spec("mypyc") is None:
        return "mypy is not installed"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler {compiler} (set CC)"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python.h is missing"
    return None


def stamp_text() -> str:
    """The digest of each source that is compiled."""
    digests = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in (*SOURCES, C)}
    return json.dumps(digests, indent=1) + "\n"


def is_current() -> bool:
    """Whether the extension modules beside the sources were compiled of them, for this interpreter."""
    stamp = Path(STAMP)
    made = (*SOURCES, C, "service/_hotpath__mypyc.py")
    return (
        stamp.is_file()
        and stamp.read_text() == stamp_text()
        and all(Path(path).with_suffix(SUFFIX).is_file() for path in made)
    )


class BuildHotPath(build_ext):
    """Compiles, and writes the stamp last: a build that was cut off has none, and the commands refuse it."""

    stamp: str  # of the sources as they were before the compiler read them

    def run(self) -> None:
        """Remove what was compiled before, also of modules that left HOT; compile; write the stamp."""
        built = Path(self.build_lib)
        target = Path() if self.inplace else built
        remove_compiled({target, built})
        try:
            super().run()
        except Exception:
            remove_compiled({target, built})
            print("service: the compiler failed, see above; nothing is compiled", file=sys.stderr)
            raise
        (target / STAMP).write_text(self.stamp)


def remove_compiled(roots: set[Path]) -> None:
    """Leave no extension module of this interpreter in the service below `roots`, and no stamp."""
    for root in roots:
        (root / STAMP).unlink(missing_ok=True)
        for path in (root / "service").rglob(f"*{SUFFIX}"):
            path.unlink()


def extensions() -> list:
    """The extension modules that this command builds; none where it builds none, or cannot."""
    if not {"build", "build_ext", "bdist_wheel"} & set(sys.argv):
        return []
    is_inplace = "--inplace" in sys.argv
    if is_inplace and is_current():
        return []
    if reason := unsupported_reason():
        print(f"service: not compiled, it runs interpreted and slower: {reason}", file=sys.stderr)
        if is_inplace:
            remove_compiled({Path()})  # of older sources
        return []
    BuildHotPath.stamp = stamp_text()
    from mypyc.build import mypycify

    print(f"service: compiling {len(HOT)} modules, about a minute …", file=sys.stderr)
    # `make check` checks the types. Here those of other packages are left out, so that the same code is made
    # whether they are installed, as for `make compiled`, or not, as where pip builds a wheel.
    options = ["--config-file=", "--no-site-packages", "--ignore-missing-imports"]
    modules = mypycify(
        [*options, *SOURCES], opt_level="2", debug_level="0", group_name=LIBRARY, target_dir="build/mypyc"
    )
    return [*modules, Extension("service.contract._resample", [C], extra_compile_args=["-O3"])]


class BuildOneName(build):
    """Builds, and puts the packages with common names inside `foldserve`: a wheel takes one name, not five.

    The command adds foldserve/_packages to its path (foldserve/__main__.py); a checkout has them at its top.
    """

    def run(self) -> None:
        super().run()
        inside = Path(self.build_lib, "foldserve", "_packages")
        for name in ("training", "export", "service", "study"):
            if (built := Path(self.build_lib, name)).is_dir():
                shutil.rmtree(inside / name, ignore_errors=True)
                inside.mkdir(parents=True, exist_ok=True)
                shutil.move(built, inside / name)


ext_modules = extensions()
commands = {"build": BuildOneName, **({"build_ext": BuildHotPath} if ext_modules else {})}
setup(ext_modules=ext_modules, cmdclass=commands)
