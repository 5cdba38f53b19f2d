"""MaxPool and AveragePool for ONNX's reference implementation, computed by torch.

    MaxPool        pad by −∞, take the largest
    AveragePool    pad by zeros, sum, divide by how many of the window's places count

ONNX's own loops over every window in Python: seconds a row.  What is rare (ceil_mode, indices, integers)
is left to it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnx.reference.ops.op_average_pool import AveragePool_19
from onnx.reference.ops.op_max_pool import MaxPool as NumpyMaxPool
from torch.nn import functional

from export.proof.reference.attributes import explicit_pads, same_totals, tensor, torch_order

_MAX: dict[int, Callable[..., torch.Tensor]] = {
    3: functional.max_pool1d,
    4: functional.max_pool2d,
    5: functional.max_pool3d,
}


class MaxPool(NumpyMaxPool):
    """ONNX operator MaxPool on floats (N, C, …) with one to three spatial dimensions."""

    def _run(self, x: np.ndarray, **attributes: Any) -> tuple[np.ndarray, ...]:  # type: ignore[override]
        if attributes.get("ceil_mode") or len(self.output) > 1 or x.dtype.kind != "f":
            answers: tuple[np.ndarray, ...] = super()._run(x, **attributes)  # type: ignore[no-untyped-call]
            return answers
        kernel, strides, dilations = _window(x, attributes)
        reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        pads = explicit_pads(attributes, same_totals(x.shape[2:], reach, strides))
        padded = functional.pad(tensor(x), torch_order(pads), value=-np.inf)
        return (_MAX[x.ndim](padded, kernel, stride=strides, dilation=dilations).numpy(),)


class AveragePool(AveragePool_19):
    """ONNX operator AveragePool on floats (N, C, …) with one to three spatial dimensions."""

    def _run(self, x: np.ndarray, **attributes: Any) -> tuple[np.ndarray, ...]:  # type: ignore[override]
        kernel, strides, dilations = _window(x, attributes)
        if attributes.get("ceil_mode") or max(dilations) > 1:
            answers: tuple[np.ndarray, ...] = super()._run(x, **attributes)  # type: ignore[no-untyped-call]
            return answers
        pads = torch_order(explicit_pads(attributes, same_totals(x.shape[2:], kernel, strides)))
        rows = tensor(x)
        counted = torch.ones_like(rows[:1, :1])
        counts = functional.pad(counted, pads, value=float(bool(attributes.get("count_include_pad"))))
        sums = _window_sums(functional.pad(rows, pads), kernel, strides)
        return ((sums / _window_sums(counts, kernel, strides)).numpy(),)


def _window(x: np.ndarray, attributes: dict[str, Any]) -> tuple[list[int], list[int], list[int]]:
    ones = [1] * (x.ndim - 2)
    return (
        list(attributes["kernel_shape"]),
        list(attributes.get("strides") or ones),
        list(attributes.get("dilations") or ones),
    )


def _window_sums(rows: torch.Tensor, kernel: list[int], strides: list[int]) -> torch.Tensor:
    for axis, (size, stride) in enumerate(zip(kernel, strides, strict=True), start=2):
        rows = rows.unfold(axis, size, stride).sum(-1)
    return rows
