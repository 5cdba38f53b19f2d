"""Where data sets are on this machine, and where what was made of them is kept.

TRAINING_DATA     a folder of data sets: searched first, and downloaded into
TRAINING_CACHE    downloads, if that is not set, and decoded pictures (default ~/.cache/foldserve)
"""

import os
from collections.abc import Mapping
from pathlib import Path


def find_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder for what can be made again."""
    if given := environment.get("TRAINING_CACHE"):
        return Path(given).expanduser()
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foldserve"


def find_downloads(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder that downloads go to, one folder in it for each data set."""
    given = environment.get("TRAINING_DATA")
    return Path(given).expanduser() if given else find_cache(environment) / "data"


def list_places(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Folders that may hold data sets, in the order in which they are searched.

    Ours; where torchvision's tutorials and npm put them in a project; Keras' cache; Debian's packages.
    """
    return [
        find_downloads(environment),
        Path("data"),
        Path("node_modules"),
        Path.home() / ".keras" / "datasets",
        Path("/usr/share/datasets"),
    ]
