"""Import the module of a verb quickly: most of the time that a small file takes is that of imports.

In: a module's name.  Out: the module.

`onnx_ir` imports sympy, for arithmetic of sizes that have names, which no fold asks for; to execute it takes
as long as to read, check and write a file of 20 MB.  Here it is executed when something of it is first read.
"""

import gc
import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

# The second reads attributes of the first when it is executed: late alone, the first would be executed then.
_LATE = {"sympy", "onnx_ir._symbolic_shapes"}


class _LateFinder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _LATE else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def import_quickly(name: str) -> ModuleType:
    """The module, and all that it imports; raises ModuleNotFoundError."""
    if (module := sys.modules.get(name)) is not None:
        return module
    sys.meta_path.insert(0, _LateFinder)
    gc.disable()  # what is imported stays to the end, and is searched for garbage in vain: while it is made,
    try:
        module = importlib.import_module(name)
    finally:
        sys.meta_path.remove(_LateFinder)
        gc.enable()
    gc.freeze()  # and from now on, up to the exit
    return module
