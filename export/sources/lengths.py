"""`len(x)` of a tensor while a net is traced: its first size, which stays open.

    x.view(len(x), -1)        as x.view(x.size(0), -1)

Python's own `len` returns a number, so that the graph would hold for as many rows as were traced.  The
functions of a forward look it up in the globals of the file that they are written in.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def open_lengths(net: nn.Module) -> Iterator[None]:
    """Within this, `len` of a tensor may be symbolic in the files of the net's own modules; torch's stay."""
    files = {id(one): one for one in map(_globals, net.modules()) if one is not None and "len" not in one}
    try:
        for one in files.values():
            one["len"] = _length
        yield
    finally:
        for one in files.values():
            del one["len"]


def _length(value: Any) -> Any:
    return value.size(0) if isinstance(value, torch.Tensor) and value.dim() else len(value)


def _globals(module: nn.Module) -> dict[str, Any] | None:
    """Of the file of the module's forward; None of torch's own."""
    forward = vars(module).get("forward") or type(module).forward
    found: dict[str, Any] | None = getattr(forward, "__globals__", None)
    return None if found is None or str(found.get("__name__", "")).partition(".")[0] == "torch" else found
