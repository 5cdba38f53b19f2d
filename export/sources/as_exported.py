"""What torch's exporter has no op for, or takes for a constant, in the words of others.

    x.clamp(1e-7, 1)           bounds of a float and a whole number    both as floats
    x.data                     a tensor outside of the graph           x.detach()
    hamming_window(8)          ONNX's, of another α (25/46)            by hann_window
    x.split(rows), x.chunk(4)  of (4 · rows, …): the rows are fixed    x.unflatten(0, (4, rows)).unbind(0)

The last is how attention takes its heads out of the rows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from export.sources.calls import Calls


class AsExported(Calls):
    """In force while a net is traced."""

    def answer(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The same numbers, by what the exporter has an op for."""
        if func == _DATA:  # made anew each time that it is asked for
            return args[0].detach()
        if func in _CLAMPS and any(isinstance(bound, float) for bound in (*args[1:], *kwargs.values())):
            args = (*args[:1], *map(_as_float, args[1:]))
            kwargs = {name: _as_float(bound) for name, bound in kwargs.items()}
        if func == torch.hamming_window:
            return _hamming(*args, **kwargs)
        parts = _PARTS[func](*args, **kwargs) if func in _PARTS else None
        return func(*args, **kwargs) if parts is None else parts


def _chunks(x: torch.Tensor, chunks: int, dim: int = 0) -> tuple[torch.Tensor, ...] | None:
    """As torch.chunk, where the size is open and a multiple of `chunks`."""
    whole: Any = x.size(dim)
    if not isinstance(whole, torch.SymInt) or not (whole.node.expr / chunks).is_integer:
        return None
    return torch.unflatten(x, dim, (chunks, whole // chunks)).unbind(dim % x.dim())


def _splits(x: torch.Tensor, size: object, dim: int = 0) -> tuple[torch.Tensor, ...] | None:
    """As torch.split, where both sizes are open and one is a multiple of the other."""
    whole: Any = x.size(dim)
    if not isinstance(whole, torch.SymInt) or not isinstance(size, torch.SymInt):
        return None
    count = whole.node.expr / size.node.expr
    return _chunks(x, int(count), dim) if count.is_Integer else None


def _hamming(
    window_length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, **options: Any
) -> torch.Tensor:
    """α − β · cos, of which Hann's window is (1 − cos) / 2."""
    return alpha - beta + 2 * beta * torch.hann_window(window_length, periodic, **options)


def _as_float(bound: Any) -> Any:
    return float(bound) if type(bound) is int else bound


_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_CLAMPS = (torch.clamp, torch.clip, torch.clamp_, torch.Tensor.clamp, torch.Tensor.clip, torch.Tensor.clamp_)
_PARTS: dict[Callable[..., Any], Callable[..., tuple[torch.Tensor, ...] | None]] = {
    **dict.fromkeys((torch.chunk, torch.Tensor.chunk), _chunks),
    torch.split: lambda tensor, split_size_or_sections, dim=0: _splits(tensor, split_size_or_sections, dim),
    torch.Tensor.split: lambda self, split_size, dim=0: _splits(self, split_size, dim),
}
