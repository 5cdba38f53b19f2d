"""MaxPool, AveragePool and GlobalMaxPool for ONNX's reference implementation.

    MaxPool        pad by −∞, take the maximum over the taps
    AveragePool    pad by zeros, sum over the taps, divide by how many of the window's places count

ONNX's own loops over every window in Python: seconds a row.  What is rare (ceil_mode, indices, integers)
is left to it.  Its GlobalMaxPool (1.23) takes the maximum over axes of pictures, whatever the rank.
"""

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_average_pool import AveragePool_19
from onnx.reference.ops.op_max_pool import MaxPool as NumpyMaxPool

from export.compute.operators.windows import explicit_pads, extents, num_windows, padded, same_totals, taps


class MaxPool(NumpyMaxPool):
    """ONNX operator MaxPool on floats (N, C, spatial…)."""

    def _run(self, x: np.ndarray, **attributes: Any) -> tuple[np.ndarray, ...]:  # type: ignore[override]
        if attributes.get("ceil_mode") or len(self.output) > 1 or x.dtype.kind != "f":
            answers: tuple[np.ndarray, ...] = super()._run(x, **attributes)  # type: ignore[no-untyped-call]
            return answers
        kernel, strides, dilations = _window(x, attributes)
        spans = extents(kernel, dilations)
        x = padded(x, explicit_pads(attributes, same_totals(x.shape[2:], spans, strides)), -np.inf)
        counts = num_windows(x.shape[2:], spans, strides)
        y = np.full((*x.shape[:2], *counts), -np.inf, x.dtype)
        for _, index in taps(counts, kernel, strides, dilations):
            np.maximum(y, x[index], out=y)
        return (y,)


class AveragePool(AveragePool_19):
    """ONNX operator AveragePool on floats (N, C, spatial…)."""

    def _run(self, x: np.ndarray, **attributes: Any) -> tuple[np.ndarray, ...]:  # type: ignore[override]
        kernel, strides, dilations = _window(x, attributes)
        if attributes.get("ceil_mode") or max(dilations) > 1:
            answers: tuple[np.ndarray, ...] = super()._run(x, **attributes)  # type: ignore[no-untyped-call]
            return answers
        pads = explicit_pads(attributes, same_totals(x.shape[2:], kernel, strides))
        counted = padded(np.ones_like(x[:1, :1]), pads, float(bool(attributes.get("count_include_pad"))))
        return (_sums(padded(x, pads), kernel, strides) / _sums(counted, kernel, strides),)


class GlobalMaxPool(OpRun):
    """ONNX operator GlobalMaxPool on (N, C, spatial…)."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


def _window(x: np.ndarray, attributes: dict[str, Any]) -> tuple[list[int], list[int], list[int]]:
    ones = [1] * (x.ndim - 2)
    return (
        list(attributes["kernel_shape"]),
        list(attributes.get("strides") or ones),
        list(attributes.get("dilations") or ones),
    )


def _sums(x: np.ndarray, kernel: list[int], strides: list[int]) -> np.ndarray:
    """The sum of each window, shape (N, C, windows…)."""
    counts = num_windows(x.shape[2:], kernel, strides)
    sums = np.zeros((*x.shape[:2], *counts), x.dtype)
    for _, index in taps(counts, kernel, strides, [1] * len(kernel)):
        sums += x[index]
    return sums
