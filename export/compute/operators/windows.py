"""What the sliding-window operators share: their padding written out, and the windows' taps.

A window over a tensor (N, C, spatial…) has one tap for each place of its kernel.  The values under one tap,
for all windows, are a strided slice of the padded tensor: so an operator is a few array operations for each
tap, whatever the number of windows.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

Pads = list[tuple[int, int]]


def explicit_pads(attributes: Mapping[str, Any], totals: Sequence[int]) -> Pads:
    """(begin, end) of each spatial dimension; `totals` is how much SAME pads in each."""
    auto_pad = attributes.get("auto_pad") or "NOTSET"
    rank = len(totals)
    if auto_pad == "SAME_UPPER":
        return [(total // 2, total - total // 2) for total in totals]
    if auto_pad == "SAME_LOWER":
        return [(total - total // 2, total // 2) for total in totals]
    pads = list(attributes.get("pads") or [0] * 2 * rank) if auto_pad == "NOTSET" else [0] * 2 * rank
    return list(zip(pads[:rank], pads[rank:], strict=True))


def same_totals(sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int]) -> list[int]:
    """How much SAME pads in each dimension, for ⌈size / stride⌉ windows of these extents."""
    return [
        max((-(-size // stride) - 1) * stride + extent - size, 0)
        for size, stride, extent in zip(sizes, strides, extents, strict=True)
    ]


def extents(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """How many places a window spans in each dimension, from its first tap to its last."""
    return [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]


def padded(x: np.ndarray, pads: Pads, fill: float = 0.0) -> np.ndarray:
    """x (N, C, spatial…) padded by `fill`; a negative pad crops."""
    sides = zip(x.shape[2:], pads, strict=True)
    crop = [slice(max(0, -begin), size - max(0, -end)) for size, (begin, end) in sides]
    grow = [(0, 0), (0, 0), *((max(0, begin), max(0, end)) for begin, end in pads)]
    return np.pad(x[:, :, *crop], grow, constant_values=fill)


def num_windows(sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """How many windows of these spans fit into a tensor of these spatial sizes."""
    sides = zip(sizes, spans, strides, strict=True)
    return tuple((size - span) // stride + 1 for size, span, stride in sides)


def taps(
    counts: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
    """Each tap's place in the kernel, and the index of its values, for `counts` windows in each dimension."""
    for place in product(*map(range, kernel)):
        starts = [tap * dilation for tap, dilation in zip(place, dilations, strict=True)]
        index = (
            slice(start, start + (count - 1) * stride + 1, stride)
            for start, count, stride in zip(starts, counts, strides, strict=True)
        )
        yield place, (..., *index)
