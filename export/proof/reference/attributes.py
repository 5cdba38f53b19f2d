"""What the sliding-window operators share: their padding, written out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

Pads = list[tuple[int, int]]


def explicit_pads(attributes: Mapping[str, Any], totals: Sequence[int]) -> Pads:
    """(begin, end) of each spatial dimension; `totals` is what SAME has to share out."""
    auto_pad = attributes.get("auto_pad") or "NOTSET"
    rank = len(totals)
    if auto_pad == "SAME_UPPER":
        return [(total // 2, total - total // 2) for total in totals]
    if auto_pad == "SAME_LOWER":
        return [(total - total // 2, total // 2) for total in totals]
    pads = list(attributes.get("pads") or [0] * 2 * rank) if auto_pad == "NOTSET" else [0] * 2 * rank
    return list(zip(pads[:rank], pads[rank:], strict=True))


def same_totals(sizes: Sequence[int], reach: Sequence[int], strides: Sequence[int]) -> list[int]:
    """How much SAME pads in all, for ⌈size / stride⌉ output places; `reach` is a window's extent."""
    return [
        max((-(-size // stride) - 1) * stride + extent - size, 0)
        for size, stride, extent in zip(sizes, strides, reach, strict=True)
    ]


def torch_order(pads: Pads) -> list[int]:
    """As torch.nn.functional.pad wants them: the last dimension first."""
    return [size for pair in reversed(pads) for size in pair]


def tensor(array: np.ndarray) -> torch.Tensor:
    """A copy: a graph's constants are read-only."""
    return torch.tensor(np.ascontiguousarray(array))
