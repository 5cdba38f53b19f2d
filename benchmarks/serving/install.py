"""The environments of the peers: one for each, created by one command.

In: names and a folder.  Out: FOLDER/NAME with the peer at its pinned version and our version of ONNX Runtime.
"""

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from benchmarks.serving.systems import SYSTEMS

SHARED = ("onnxruntime", "pillow")  # at our versions, so that peers run the same kernels


def install(names: list[str], peers: Path, python: str, console: Console) -> int:
    """Create each environment from scratch; returns the exit code, 1 if one failed."""
    packages = {system.room: system.packages for system in SYSTEMS.values() if system.packages}
    failed = []
    for name in packages if "all" in names else names:
        folder = peers / name
        console.print(f"{name}: {' '.join(packages[name])} in {folder}", markup=False)
        shutil.rmtree(folder, ignore_errors=True)
        pinned = [f"{package}=={version(package)}" for package in SHARED]
        pip = [
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        steps = [[python, "-m", "venv", str(folder)], [*pip, *packages[name], *pinned]]
        if any(subprocess.run(step, check=False).returncode for step in steps):
            shutil.rmtree(folder, ignore_errors=True)
            failed.append(name)
    if failed:
        console.print(f"not installed: {', '.join(failed)}", markup=False)
    return 1 if failed else 0
