"""The conditions of the measurements: stated in the table, and the same for all cells of a file.

In: options.  Out: serving.json beside serving.csv; resuming under different conditions is refused.
"""

import json
import os
import platform
import shlex
import sys
from importlib.metadata import version

from benchmarks.common import cpu_model
from benchmarks.serving.nets import NETS
from benchmarks.serving.steps import Options


class OtherConditions(ValueError):  # noqa: N818
    """The file's cells were measured under different conditions."""


def settle(options: Options) -> list[str]:
    """Write the conditions, or check that they equal the file's; returns lines of Markdown for the table."""
    file = options.out / "serving.json"
    now = {
        "cores of the server": list(options.cores.server),
        "cores of the driver": list(options.cores.driver),
        "share of the usual seconds": options.scale,
    }
    if file.exists() and (options.out / "serving.csv").exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before["fixed"] != now:
            raise OtherConditions(
                f"{file} was measured with {before['fixed']}, now {now}; choose another --out"
            )
    conditions = {"fixed": now, "machine": _machine(), "command": shlex.join(["python", "-m", *_command()])}
    file.write_text(json.dumps(conditions, indent=2) + "\n", encoding="utf-8")
    shared = options.cores.server == options.cores.driver
    where = "server and driver share them" if shared else "the driver has the last, the server the others"
    return [
        f"`{conditions['command']}`",
        "",
        f"{_machine()}; {where}; one system at a time; medians of {options.rounds} interleaved rounds of "
        f"{', '.join(f'{NETS[net].seconds_at(options.scale)} s ({net})' for net in options.nets)}; "
        "every answer checked; "
        f"load average when this was written {os.getloadavg()[0]:.1f}.",
    ]


def _command() -> list[str]:
    return ["benchmarks.serving", *sys.argv[1:]]


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "uvicorn", "uvloop"))
    return f"{os.cpu_count()} cores of {cpu_model()}, Python {platform.python_version()}, {packages}"
