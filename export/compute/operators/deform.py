"""DeformConv for ONNX's reference implementation, whose own loop over every window takes 15 s a row.

    y[o, p] = c[o] + Σ over i and taps of W[o, i, tap] · m[tap, p] · x[i, place]
    place   = stride · p − pad + dilation · tap + offset[tap, p]

x is interpolated between the four pixels around a place, and is 0 outside of the picture (Dai et al. 2017,
arXiv:1703.06211; the mask m: Zhu et al. 2018, arXiv:1811.11168).  Offsets are pairs (y, x) for each tap.
"""

import numpy as np
from onnx.reference.ops.op_deform_conv import DeformConv as NumpyDeformConv

from export.compute.operators.places import interpolated

PICTURE_RANK = 4


class DeformConv(NumpyDeformConv):
    """ONNX operator DeformConv on (N, C, H, W); films are left to ONNX's own."""

    def _run(
        self,
        x: np.ndarray,
        w: np.ndarray,
        offset: np.ndarray,
        b: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        dilations: list[int] | None = None,
        group: int | None = None,
        kernel_shape: list[int] | None = None,
        offset_group: int | None = None,
        pads: list[int] | None = None,
        strides: list[int] | None = None,
    ) -> tuple[np.ndarray, ...]:
        if x.ndim != PICTURE_RANK:
            rest = (dilations, group, kernel_shape, offset_group, pads, strides)
            answers: tuple[np.ndarray, ...] = super()._run(x, w, offset, b, mask, *rest)  # type: ignore[no-untyped-call]
            return answers
        groups, parts = group or 1, offset_group or 1
        kernel, (rows, columns) = w.shape[2:], offset.shape[2:]
        taps = kernel[0] * kernel[1]
        moved = offset.reshape(len(x), parts, *kernel, 2, rows, columns)
        y, x_places = (
            moved[:, :, :, :, axis] + _regular(axis, kernel[axis], size, pads, strides, dilations)
            for axis, size in ((0, rows), (1, columns))
        )
        values = interpolated(x.reshape(len(x), parts, -1, *x.shape[2:]), y, x_places)
        if mask is not None:
            values = values * mask.reshape(len(x), parts, 1, taps, rows * columns)
        values = values.reshape(len(x), groups, -1, rows * columns)  # (n, group, i and taps, p)
        weight = w.reshape(groups, len(w) // groups, -1)
        answer = np.matmul(weight, values).reshape(len(x), len(w), rows, columns)
        return ((answer if b is None else answer + b.reshape(-1, 1, 1)).astype(x.dtype),)


def _regular(
    axis: int,
    kernel: int,
    size: int,
    pads: list[int] | None,
    strides: list[int] | None,
    dilations: list[int] | None,
) -> np.ndarray:
    """Where each tap of each window lies without offsets, to be added to (…, kH, kW, rows, columns)."""
    begin, stride, dilation = (
        (of or [default] * 2)[axis] for of, default in ((pads, 0), (strides, 1), (dilations, 1))
    )
    places = np.arange(kernel)[:, None] * dilation + np.arange(size) * stride - begin
    return places[:, None, :, None] if axis == 0 else places[None, :, None, :]
