"""What torch's exporter has no op for, or takes for another or for a constant, in the words of others.

    x.clamp(1e-7, 1)              bounds of a float and a whole number     both as floats
    x.data                        a tensor outside of the graph            x.detach()
    x.split(rows), x.chunk(4)     of (4 · rows, …): the rows are fixed     x.unflatten(0, (4, rows)).unbind(0)
    hamming_window(8)             ONNX's, of another α (25/46)             by hann_window
    cdist(x, y)                   no op                                    the norm of all differences
    adaptive_max_pool2d(x, 3)     no op, where 3 does not divide a size    the largest of each window, in turn
    x.kthvalue(2), x.median(1)    no op                                    the last of topk
    avg_pool2d(…, divisor)        the divisor is left out                  what it makes of the mean
    x.squeeze(1), x.squeeze()     a size other than 1 too, and one row     the sizes that are 1
    hypot(x, y)                   no op                                    √(x² + y²)
    x.cumprod(1)                  no op                                    products of 2, 4, 8, … in turn
    searchsorted(edges, x)        no op                                    bucketize(x, edges), of one axis

The third is how attention takes its heads out of the rows.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch.nn import functional as fn

from export.sources.calls import Calls

Words = Callable[..., Any]
"""The same arguments to the same answer; None where the exporter's own way is right."""


class AsExported(Calls):
    """In force while a net is traced."""

    def answer(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The same numbers, by what the exporter has an op for."""
        if func in _CLAMPS and any(isinstance(bound, float) for bound in (*args[1:], *kwargs.values())):
            args = (*args[:1], *map(_as_float, args[1:]))
            kwargs = {name: _as_float(bound) for name, bound in kwargs.items()}
        if func == _DATA:  # made anew each time that it is asked for, so that no dict finds it
            return args[0].detach()
        answer = _in_words(func, args, kwargs) if func in _WORDS else None
        return func(*args, **kwargs) if answer is None else answer


def _in_words(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    first = [kwargs[name] for name in _FIRST & kwargs.keys()]
    return _WORDS[func](*first, *args, **{name: kwargs[name] for name in kwargs.keys() - _FIRST})


def _as_float(bound: Any) -> Any:
    return float(bound) if type(bound) is int else bound


def _chunk(x: torch.Tensor, chunks: int, dim: int = 0) -> Any:
    """Where the size is open and a multiple of `chunks`."""
    whole: Any = x.size(dim)
    if not isinstance(whole, torch.SymInt) or not (whole.node.expr / chunks).is_integer:
        return None
    return torch.unflatten(x, dim, (chunks, whole // chunks)).unbind(dim % x.dim())


def _split(x: torch.Tensor, size: object, dim: int = 0) -> Any:
    """Where both sizes are open and one is a multiple of the other."""
    whole: Any = x.size(dim)
    if not isinstance(whole, torch.SymInt) or not isinstance(size, torch.SymInt):
        return None
    count = whole.node.expr / size.node.expr
    return _chunk(x, int(count), dim) if count.is_Integer else None


def _squeeze(x: torch.Tensor, dim: Any = None) -> torch.Tensor:
    """Only what is 1 now: an open size stays, though it may be 1 in a call."""
    asked = range(x.dim()) if dim is None else dim if isinstance(dim, Sequence) else (dim,)
    places = {axis % max(x.dim(), 1) for axis in asked}
    ones = [axis for axis in places if x.dim() and isinstance(x.size(axis), int) and x.size(axis) == 1]
    return x.squeeze(tuple(ones)) if ones else x


def _hamming(
    window_length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, **options: Any
) -> torch.Tensor:
    """α − β · cos, of which Hann's window is (1 − cos) / 2."""
    return alpha - beta + 2 * beta * torch.hann_window(window_length, periodic, **options)


def _cdist(x1: torch.Tensor, x2: torch.Tensor, p: float = 2.0, compute_mode: Any = None) -> Any:
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def _adaptive_max(num_axes: int) -> Words:
    """Of the last `num_axes` axes, one after another: window i of n begins at ⌊i · size / n⌋."""

    def words(x: torch.Tensor, output_size: Any, return_indices: bool = False) -> Any:
        wanted = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * num_axes
        axes = [
            (size, size if count is None else count)
            for size, count in zip(x.shape[-num_axes:], wanted, strict=True)
        ]
        is_open = any(isinstance(size, torch.SymInt) for size, _ in axes)
        if return_indices or is_open or not any(size % count for size, count in axes):
            return None
        for axis, (size, count) in enumerate(axes, -num_axes):
            ends = [(place * size // count, -((place + 1) * size // -count)) for place in range(count)]
            windows = [x.narrow(axis, start, end - start).amax(axis) for start, end in ends]
            x = torch.stack(windows, axis)
        return x

    return words


def _kth(x: torch.Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    return torch.return_types.kthvalue(_last_of_top(x, k, dim, keepdim))


def _median(x: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """Along an axis: the lower of two in the middle, as torch has it."""
    if dim is None or isinstance(x.size(dim), torch.SymInt):
        return None
    return torch.return_types.median(_last_of_top(x, (x.size(dim) + 1) // 2, dim, keepdim))


def _last_of_top(x: torch.Tensor, k: int, dim: int, keepdim: bool) -> tuple[torch.Tensor, torch.Tensor]:
    numbers, places = (part.narrow(dim, k - 1, 1) for part in x.topk(k, dim, largest=False))
    return (numbers, places) if keepdim else (numbers.squeeze(dim), places.squeeze(dim))


def _running_product(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
    """Of a fixed size n, in log₂ n steps: each times the one `step` before, a product of `step` numbers."""
    size = x.size(dim) if x.dim() else None
    if not isinstance(size, int):
        return None
    x = x.to(dtype or (x.dtype if x.dtype.is_floating_point else torch.int64))
    step = 1
    while step < size:
        first, before = x.narrow(dim, 0, step), x.narrow(dim, 0, size - step)
        x = torch.cat([first, x.narrow(dim, step, size - step) * before], dim)
        step *= 2
    return x


def _place_in(
    sorted_sequence: torch.Tensor,
    x: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> Any:
    if sorted_sequence.dim() != 1 or sorter is not None:
        return None
    from_right = right or side == "right"
    return torch.bucketize(x, sorted_sequence, out_int32=out_int32, right=from_right)


def _average(pool: Callable[..., torch.Tensor], num_axes: int) -> Words:
    def words(
        x: torch.Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        if divisor_override is None or ceil_mode:
            return None
        taps = kernel_size**num_axes if isinstance(kernel_size, int) else prod(kernel_size)
        return pool(x, kernel_size, stride, padding) * (taps / divisor_override)

    return words


_FIRST = {"input", "tensor", "self"}
"""What torch calls the first argument, where it is named."""
_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_CLAMPS = (torch.clamp, torch.clip, torch.clamp_, torch.Tensor.clamp, torch.Tensor.clip, torch.Tensor.clamp_)
_WORDS: dict[Callable[..., Any], Words] = {
    **dict.fromkeys((torch.chunk, torch.Tensor.chunk), _chunk),
    torch.split: lambda x, split_size_or_sections, dim=0: _split(x, split_size_or_sections, dim),
    torch.Tensor.split: lambda x, split_size, dim=0: _split(x, split_size, dim),
    **dict.fromkeys((torch.squeeze, torch.Tensor.squeeze), _squeeze),
    torch.hamming_window: _hamming,
    torch.cdist: _cdist,
    fn.adaptive_max_pool1d: _adaptive_max(1),
    fn.adaptive_max_pool2d: _adaptive_max(2),
    fn.adaptive_max_pool3d: _adaptive_max(3),
    **dict.fromkeys((torch.kthvalue, torch.Tensor.kthvalue), _kth),
    **dict.fromkeys((torch.median, torch.Tensor.median), _median),
    **dict.fromkeys((torch.hypot, torch.Tensor.hypot), lambda x, other: (x * x + other * other).sqrt()),
    **dict.fromkeys((torch.cumprod, torch.Tensor.cumprod), _running_product),
    torch.searchsorted: _place_in,
    fn.avg_pool2d: _average(fn.avg_pool2d, 2),
    fn.avg_pool3d: _average(fn.avg_pool3d, 3),
}
