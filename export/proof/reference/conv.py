"""Convolutions for ONNX's reference implementation, computed by torch in the rows' own precision.

In: what the operators Conv and ConvTranspose take.  Out: their answers.

ONNX ships a NumPy reference of both; its ConvTranspose is wrong for more than one group (onnx 1.23), and
its Conv takes seconds a row.  Padding here is explicit, so asymmetric pads and `auto_pad` are plain:

    Conv            pad the input by zeros, convolve without padding
    ConvTranspose   spread without padding, crop by pads, extend by output_padding, add the bias
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnx.reference.op_run import OpRun
from torch.nn import functional

from export.proof.reference.attributes import explicit_pads, same_totals, tensor, torch_order

_CONV: dict[int, Callable[..., torch.Tensor]] = {
    3: functional.conv1d,
    4: functional.conv2d,
    5: functional.conv3d,
}
_SPREAD: dict[int, Callable[..., torch.Tensor]] = {
    3: functional.conv_transpose1d,
    4: functional.conv_transpose2d,
    5: functional.conv_transpose3d,
}


class Conv(OpRun):
    """ONNX operator Conv on (N, C, …) with one to three spatial dimensions."""

    def _run(
        self,
        x: np.ndarray,
        w: np.ndarray,
        b: np.ndarray | None = None,
        **attributes: Any,
    ) -> tuple[np.ndarray]:
        rank = x.ndim - 2
        strides = list(attributes.get("strides") or [1] * rank)
        dilations = list(attributes.get("dilations") or [1] * rank)
        reach = [(size - 1) * dilation + 1 for size, dilation in zip(w.shape[2:], dilations, strict=True)]
        pads = explicit_pads(attributes, same_totals(x.shape[2:], reach, strides))
        answer = _CONV[x.ndim](
            functional.pad(tensor(x), torch_order(pads)),
            tensor(w),
            None if b is None else tensor(b),
            stride=strides,
            dilation=dilations,
            groups=attributes.get("group") or 1,
        )
        return (answer.numpy(),)


class ConvTranspose(OpRun):
    """ONNX operator ConvTranspose on (N, C, …) with one to three spatial dimensions."""

    def _run(
        self,
        x: np.ndarray,
        w: np.ndarray,
        b: np.ndarray | None = None,
        **attributes: Any,
    ) -> tuple[np.ndarray]:
        rank = x.ndim - 2
        strides = list(attributes.get("strides") or [1] * rank)
        extra = list(attributes.get("output_padding") or [0] * rank)
        full = _SPREAD[x.ndim](
            tensor(x),
            tensor(w),
            stride=strides,
            dilation=list(attributes.get("dilations") or [1] * rank),
            groups=attributes.get("group") or 1,
        )
        sizes = [size + more for size, more in zip(full.shape[2:], extra, strict=True)]
        wanted = attributes.get("output_shape") or [
            size * stride for size, stride in zip(x.shape[2:], strides, strict=True)
        ]
        totals = [size - want for size, want in zip(sizes, wanted[-rank:], strict=True)]
        given = {**attributes, "auto_pad": attributes.get("auto_pad") or "NOTSET"}
        if attributes.get("output_shape") and given["auto_pad"] == "NOTSET":
            given["auto_pad"] = "SAME_LOWER"  # what the operator says where it is not SAME_UPPER
        pads = explicit_pads(given, totals)
        crop = [(-begin, more - end) for (begin, end), more in zip(pads, extra, strict=True)]
        answer = functional.pad(full, torch_order(crop))
        if b is not None:
            answer = answer + tensor(b).reshape(-1, *[1] * rank)
        return (answer.numpy(),)
