"""Fold a BatchNorm into the Conv or ConvTranspose before it, in any number of dimensions, grouped or not.

    Conv            weight (C_out, C_in/g, k…)     weight'[o] = weight[o] · scale[o]
    ConvTranspose   weight (C_in, C_out/g, k…)     weight'[i, j] = weight[i, j] · scale[group(i)·C_out/g + j]
    both            bias'[o] = bias[o] · scale[o] + shift[o]

Zero padding is no hindrance: the scale acts behind the sum.
"""

import numpy as np
import onnx_ir as ir

from export.batchnorm import Affine, Declined, Folded
from export.folds.weights import bias_or_zeros, own_weight, write


def fold_conv(node: ir.Node, affine: Affine) -> Folded | Declined:
    """Fold into the output channels of a Conv."""
    weight = own_weight(node, 1)
    if isinstance(weight, Declined):
        return weight
    channels = weight.shape[0]
    by_output = affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
    return _finish(node, affine, channels, weight * by_output if channels == affine.scale.size else None)


def fold_conv_transpose(node: ir.Node, affine: Affine) -> Folded | Declined:
    """Fold into the output channels of a ConvTranspose."""
    weight = own_weight(node, 1)
    if isinstance(weight, Declined):
        return weight
    groups = node.attributes.get_int("group", 1)
    inputs, outputs_per_group, *kernel = weight.shape
    channels = groups * outputs_per_group
    if channels != affine.scale.size:
        return _finish(node, affine, channels, None)
    grouped = weight.reshape(groups, inputs // groups, outputs_per_group, *kernel)
    by_output = affine.scale.reshape(groups, 1, outputs_per_group, *[1] * len(kernel))
    return _finish(node, affine, channels, (grouped * by_output).reshape(weight.shape))


def _finish(node: ir.Node, affine: Affine, channels: int, weight: np.ndarray | None) -> Folded | Declined:
    if weight is None:
        return Declined(reason=f"'{node.name}' has {channels} channels, the BatchNorm {affine.scale.size}")
    bias = bias_or_zeros(node, 2, channels)
    if isinstance(bias, Declined):
        return bias
    refused = write(node, {1: weight, 2: bias * affine.scale + affine.shift}, "folded")
    return refused or Folded(how=f"into the weights of {node.op_type} '{node.name}' before it")
