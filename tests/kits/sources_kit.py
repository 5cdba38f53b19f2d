"""Import the service's sources in this process, though extension modules of them lie beside them.

Tests replace parts of the service, which compiled code does not allow.
"""

import sys
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "service"


def prefer_sources() -> None:
    """From now on this process prefers sources in the service and the folders below it.

    What is written in C has no other form.
    """
    assert not any(name.startswith("service.") for name in sys.modules), "the service is imported already"
    sys.path_hooks.insert(0, _sources_first)


def _sources_first(folder: str) -> FileFinder:
    if not Path(folder).is_relative_to(PACKAGE):
        raise ImportError
    return FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES))
