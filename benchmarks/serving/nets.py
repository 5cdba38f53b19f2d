"""The three nets, as bundles on disk.

In: a name.  Out: the folder of its newest bundle; missing bundles of the ResNets are made.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.systems import ROOT

RESNETS = "benchmarks.serving.resnets"


@dataclass(frozen=True, kw_only=True)
class Net:
    """A net and the duration of its measurements; `factory`: input shape, mean and std to make it."""

    name: str
    description: str
    seconds: float  # of one measurement
    deadline_s: float  # of a request under overload
    factory: tuple[str, ...] = ()

    def seconds_at(self, scale: float) -> int:
        """The duration in whole seconds, as wrk needs it."""
        return max(1, round(self.seconds * scale))


NETS = {
    net.name: net
    for net in (
        Net(
            name="digits", description="the default digit net, 1×28×28, 10 classes", seconds=3, deadline_s=0.1
        ),
        Net(
            name="resnet20",
            description="ResNet-20, 3×32×32, 10 classes",
            seconds=4,
            deadline_s=0.5,
            factory=("3,32,32", "0.5,0.5,0.5", "0.25,0.25,0.25"),
        ),
        Net(
            name="resnet18",
            description="ResNet-18, 3×224×224, 1000 classes",
            seconds=12,
            deadline_s=4,
            factory=("3,224,224", "0.485,0.456,0.406", "0.229,0.224,0.225"),
        ),
    )
}


def bundle_of(net: Net, models: Path, made: Path) -> Path:
    """The newest version's folder: in `models` for the digit net, in `made` for the ResNets.

    Raises FileNotFoundError if the digit net has no bundle.
    """
    folder = (made if net.factory else models) / net.name
    if not _versions(folder):
        if not net.factory:
            raise FileNotFoundError(f"there is no bundle in {folder}: make model")
        shape, mean, std = net.factory
        flags = ["--input-shape", shape, "--mean", mean, "--std", std, "--to", str(folder)]
        subprocess.run(
            [sys.executable, "-m", "export", "bundle", f"{RESNETS}:{net.name}", *flags],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return folder / str(max(_versions(folder)))


def _versions(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()]
