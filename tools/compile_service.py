"""Compile the hot path of the service to machine code, with mypyc and a C compiler.

In: service/.  Out: service/_compiled/<digest>/, which `import service` prefers to the sources it came from.

    python tools/compile_service.py        about 40 s; nothing to do if it is there already

Without mypyc or a C compiler it says so and exits with 0: the service then runs interpreted.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "service"
GROUP = "foldserve"
# What runs for each request or each batch. Not the connection's protocol, which is a subclass of uvicorn's,
# nor the quick way through JSON, which lives by what simdjson raises.
MODULES = (
    *(
        f"batching/{name}"
        for name in (
            "admission",
            "batcher",
            "computing",
            "execution",
            "forecast",
            "job",
            "lanes",
            "queue",
            "sharing",
        )
    ),
    *("engine/buffers", "engine/engine"),
    *("http/body", "http/exchange", "http/outbox", "http/reply"),
    *("models/registry", "models/served"),
    *("routes/infer", "routes/request_record"),
    *("telemetry/request_log", "telemetry/metrics"),
    *("protocol/classification", "protocol/datatypes", "protocol/head", "protocol/parameters"),
    *("protocol/request", "protocol/response", "protocol/signature", "protocol/tensors"),
)

sys.path.insert(0, str(ROOT))
os.environ["FOLDSERVE_COMPILED"] = "0"
from service.compiled import FOLDER, digest_of  # noqa: E402


def main() -> int:
    """Compile unless that is done; 1 if the compiler failed."""
    home = PACKAGE / FOLDER
    target = home / digest_of(PACKAGE)
    if target.is_dir():
        return 0
    if reason := why_not():
        print(f"service: not compiled, it runs interpreted and slower: {reason}", file=sys.stderr)
        return 0
    print(f"service: compiling {len(MODULES)} modules, about a minute …", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=PACKAGE, prefix=".compiling-") as scratch:
        log = Path(scratch) / "log"
        with log.open("w") as output:
            command = [sys.executable, __file__, "into", scratch]
            failed = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, check=False).returncode
        if failed:
            sys.stderr.write(log.read_text()[-3000:])
            print("service: the compiler failed; the service runs interpreted", file=sys.stderr)
            return 1
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        (Path(scratch) / "lib").rename(target)
    return 0


def why_not() -> str | None:
    """What is missing."""
    try:
        import mypyc.build  # noqa: F401
        import setuptools  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler {compiler} (set CC)"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python.h is missing"
    return None


def compile_into(scratch: Path) -> None:
    """Extension modules to scratch/lib; runs in a process of its own, because setuptools talks and exits."""
    from mypyc.build import mypycify
    from setuptools import setup

    paths = [f"service/{module}.py" for module in MODULES]
    extensions = mypycify(
        paths, opt_level="2", debug_level="0", group_name=GROUP, target_dir=str(scratch / "c")
    )
    setup(
        name=GROUP,
        packages=[],
        ext_modules=extensions,
        script_args=["build_ext", "--build-lib", str(scratch / "lib"), "--build-temp", str(scratch / "o")],
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["into"]:
        compile_into(Path(sys.argv[2]))
    else:
        sys.exit(main())
