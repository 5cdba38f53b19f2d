"""Bundles in, answers over HTTP out.  Imports nothing else of this project, and never torch."""

import sys
from pathlib import Path

from service.compiled import find_compiled

__version__ = "0.1.0"

COMPILED = find_compiled(Path(__file__).parent)
if COMPILED is not None:
    sys.path.append(str(COMPILED))  # the library that the extension modules share
    __path__.insert(0, str(COMPILED / "service"))
