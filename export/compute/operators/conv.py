"""Conv and ConvTranspose for ONNX's reference implementation, in the rows' own precision.

ONNX ships a NumPy reference of both; its ConvTranspose is wrong for more than one group (onnx 1.23), and
its Conv takes seconds a row.  Padding here is explicit, so asymmetric pads and `auto_pad` are plain:

    Conv            pad x by zeros;  y[o] = c[o] + Σ over i and taps of W[o, i, tap] · x[i, tap's slice]
    ConvTranspose   y[o, tap's slice] += Σ over i of W[i, o, tap] · x[i], then crop by pads, add the bias

with groups: o and i of one group only.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from export.compute.operators.windows import explicit_pads, extents, num_windows, padded, same_totals, taps

COLUMN_BYTES = 1 << 22  # of what is multiplied at once, in float64: it stays in the cache


class Conv(OpRun):
    """ONNX operator Conv on (N, C, spatial…)."""

    def _run(
        self,
        x: np.ndarray,
        w: np.ndarray,
        b: np.ndarray | None = None,
        **attributes: Any,
    ) -> tuple[np.ndarray]:
        kernel, rank = w.shape[2:], x.ndim - 2
        strides, dilations, groups = _steps(attributes, rank)
        spans = extents(kernel, dilations)
        x = padded(x, explicit_pads(attributes, same_totals(x.shape[2:], spans, strides)))
        counts = num_windows(x.shape[2:], spans, strides)
        weight = w.reshape(groups, w.shape[0] // groups, -1)  # (group, o, i and taps)
        y = np.empty((len(x), w.shape[0], *counts), np.result_type(x, w))
        bias = None if b is None else b.reshape(groups, -1, 1)
        line = prod(counts[1:])
        lines = max(1, COLUMN_BYTES // max(1, 8 * groups * max(weight[0].shape) * line))
        for image, answer in zip(x, y.reshape(len(x), *weight.shape[:2], -1), strict=True):
            # A few lines at a time: the taps of a whole picture fill the memory, and those of few the cache.
            for first in range(0, counts[0], lines):
                end = min(first + lines, counts[0])
                part = image[:, first * strides[0] : (end - 1) * strides[0] + spans[0]]
                places = taps((end - first, *counts[1:]), kernel, strides, dilations)
                values = [part[index] for _, index in places]
                columns = np.stack(values, axis=1) if len(values) > 1 else values[0]
                out = answer[..., first * line : end * line]
                np.matmul(weight, columns.reshape(groups, weight.shape[2], -1), out=out)
                if bias is not None:
                    out += bias
        return (y,)


class ConvTranspose(OpRun):
    """ONNX operator ConvTranspose on (N, C, spatial…)."""

    def _run(
        self,
        x: np.ndarray,
        w: np.ndarray,
        b: np.ndarray | None = None,
        **attributes: Any,
    ) -> tuple[np.ndarray]:
        rank = x.ndim - 2
        strides, dilations, groups = _steps(attributes, rank)
        extra = list(attributes.get("output_padding") or [0] * rank)
        full = _spread(x, w, strides, dilations, groups)
        sizes = [size + more for size, more in zip(full.shape[2:], extra, strict=True)]
        wanted = attributes.get("output_shape") or [
            size * stride for size, stride in zip(x.shape[2:], strides, strict=True)
        ]
        totals = [size - want for size, want in zip(sizes, wanted[-rank:], strict=True)]
        given = {**attributes, "auto_pad": attributes.get("auto_pad") or "NOTSET"}
        if attributes.get("output_shape") and given["auto_pad"] == "NOTSET":
            given["auto_pad"] = "SAME_LOWER"  # what the operator says where it is not SAME_UPPER
        pads = explicit_pads(given, totals)
        y = padded(full, [(-begin, more - end) for (begin, end), more in zip(pads, extra, strict=True)])
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


def _steps(attributes: Mapping[str, Any], rank: int) -> tuple[list[int], list[int], int]:
    """Strides and dilations of each dimension, and the number of groups."""
    ones = [1] * rank
    strides, dilations = (list(attributes.get(name) or ones) for name in ("strides", "dilations"))
    return strides, dilations, attributes.get("group") or 1


def _spread(
    x: np.ndarray, w: np.ndarray, strides: list[int], dilations: list[int], groups: int
) -> np.ndarray:
    """Every place of x times the whole kernel, summed up where kernels overlap; nothing is cropped yet."""
    kernel, counts = w.shape[2:], x.shape[2:]
    spans = extents(kernel, dilations)
    sizes = [(count - 1) * stride + span for count, stride, span in zip(counts, strides, spans, strict=True)]
    outputs = w.shape[1] * groups
    y = np.zeros((len(x), outputs, *sizes), np.result_type(x, w))
    places = x.reshape(len(x), groups, x.shape[1] // groups, -1)
    grouped = w.reshape(groups, w.shape[0] // groups, w.shape[1], *kernel)
    taps_first = np.moveaxis(grouped.swapaxes(1, 2), (0, 1, 2), (-3, -2, -1))  # (taps…, group, o, i)
    for place, index in taps(counts, kernel, strides, dilations):
        y[index] += (taps_first[place] @ places).reshape(len(x), outputs, *counts)
    return y
