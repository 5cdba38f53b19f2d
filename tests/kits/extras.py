"""What `make test-extras` installs beside .venv, for the tests of other people's clients and packages.

In: nothing.  Out: where each thing is, or None; `NEEDED` is the reason to skip with.
"""

import shutil
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".extras"
NEEDED = "not installed: make test-extras"


def _existing(*parts: str) -> Path | None:
    path = FOLDER.joinpath(*parts)
    return path if path.exists() else None


PACKAGES = _existing("packages")  # timm, torchvision, torchao: for sys.path
RAY_PYTHON = _existing("ray", "bin", "python")  # finds .venv's packages too
KSERVE_PYTHON = _existing("kserve", "bin", "python")
STORAGE_INITIALIZER = _existing("storage", "bin", "python")
SCHEMATHESIS = _existing("schemathesis", "bin", "schemathesis")
BROWSER = _existing("browser")  # playwright: for sys.path
AXE = _existing("axe", "node_modules", "axe-core", "axe.min.js")
KUBECTL = _existing("kubectl", "bin", "kubectl") or shutil.which("kubectl")
HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
RCLONE = _existing("rclone", "bin", "rclone") or shutil.which("rclone")
PERF_ANALYZER = _existing("perf_analyzer", "bin", "perf_analyzer")


def perf_analyzer_environment() -> dict[str, str]:
    """What perf_analyzer needs to find the CUDA runtime that it is linked to."""
    (libraries,) = FOLDER.glob("perf_analyzer/lib/python3*/site-packages/nvidia/cuda_runtime/lib")
    return {"LD_LIBRARY_PATH": str(libraries)}
