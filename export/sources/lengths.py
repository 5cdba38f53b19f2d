"""`len(x)` of a tensor while a net is traced: its first size, which stays open.

    x.view(len(x), -1)        as x.view(x.size(0), -1)

Python's own `len` returns a number, so that the graph would hold for as many rows as were traced.  The
functions that a forward calls look it up in the globals of the file that they are written in, which may be
any of its package: `length_to_mask` of speechbrain is in none of its nets' files.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn


@contextmanager
def open_lengths(net: nn.Module) -> Iterator[None]:
    """Within this, `len` of a tensor may be symbolic in the packages of the net's modules; not torch's."""
    files = [one for one in _files(net) if "len" not in one]
    try:
        for one in files:
            one["len"] = _length
        yield
    finally:
        for one in files:
            one.pop("len", None)  # two names may lead to one file


def _files(net: nn.Module) -> list[dict[str, Any]]:
    """The globals of each file that may hold a part of the net's forward."""
    own = [one for one in map(_globals, net.modules()) if one is not None]
    packages = {str(one.get("__name__", "")).partition(".")[0] for one in own}
    modules = [
        one
        for name, one in list(sys.modules.items())
        if name.partition(".")[0] in packages and isinstance(one, ModuleType)
    ]
    return [*own, *map(vars, modules)]


def _length(value: Any) -> Any:
    return value.size(0) if isinstance(value, torch.Tensor) and value.dim() else len(value)


def _globals(module: nn.Module) -> dict[str, Any] | None:
    """Of the file of the module's forward; None of torch's own."""
    forward = vars(module).get("forward") or type(module).forward
    found: dict[str, Any] | None = getattr(forward, "__globals__", None)
    return None if found is None or str(found.get("__name__", "")).partition(".")[0] == "torch" else found
