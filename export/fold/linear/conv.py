"""Write what stands before and after a Conv into its weights, in any number of dimensions.

    x[i] = p[i] · x'[i] + q[i]        y'[o] = s[o] · y[o] + t[o]        with groups: o and i of one group only

    Conv            weight (C_out, C_in/g, k…)     weight'[o, i] = s[o] · weight[o, i] · p[i]
    DeformConv      the same
    ConvTranspose   weight (C_in, C_out/g, k…)     weight'[i, o] = s[o] · weight[i, o] · p[i]
    all             bias'[o] = s[o] · (bias[o] + Σ weight[o, i] · q[i]) + t[o]

Zero padding is no hindrance to s, t and p, which act on sums and factors.  To q it is: the border would have
to be padded with q, so q must be 0 there (see `export.gauges.rules.conv`).
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from export.fold.batchnorm import Affine
from export.fold.linear.dequantized import fold_dequantized
from export.fold.linear.weights import Refusal, bias_or_zeros, dequantizer, weight_of, write


def fold_conv(node: ir.Node, after: Affine, before: Affine | None = None) -> str | Refusal:
    """Fold into the weights of a Conv."""
    weight = weight_of(node, 1)
    if isinstance(weight, Refusal):
        return _fold_dequantized(node, after, before, 0) or weight
    groups = node.attributes.get_int("group", 1)
    outputs, inputs_per_group, *kernel = weight.shape
    grouped = weight.reshape(groups, outputs // groups, inputs_per_group, *kernel).swapaxes(1, 2)
    return _fold(node, grouped, after, before, lambda new: new.swapaxes(1, 2).reshape(weight.shape))


def fold_conv_transpose(node: ir.Node, after: Affine, before: Affine | None = None) -> str | Refusal:
    """Fold into the weights of a ConvTranspose."""
    weight = weight_of(node, 1)
    if isinstance(weight, Refusal):
        if (
            node.attributes.get_int("group", 1) > 1
        ):  # outputs of all groups share a place of the weights' axis
            return weight
        return _fold_dequantized(node, after, before, 1) or weight
    groups = node.attributes.get_int("group", 1)
    inputs, outputs_per_group, *kernel = weight.shape
    grouped = weight.reshape(groups, inputs // groups, outputs_per_group, *kernel)
    return _fold(node, grouped, after, before, lambda new: new.reshape(weight.shape))


def fold_deform_conv(node: ir.Node, after: Affine, before: Affine | None = None) -> str | Refusal:
    """Fold into the weights of a DeformConv, whose bias is its fourth input; offsets and mask stay.

    `before` may only scale: a place outside of the picture is 0, wherever the offsets lead.
    """
    weight = weight_of(node, 1)
    if isinstance(weight, Refusal):
        return weight
    assert before is None or not before.shift.any()
    groups = node.attributes.get_int("group", 1)
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).swapaxes(1, 2)
    return _fold(node, grouped, after, before, lambda new: new.swapaxes(1, 2).reshape(weight.shape), 3)


def _fold_dequantized(node: ir.Node, after: Affine, before: Affine | None, axis: int) -> str | Refusal | None:
    """Fold into the scales of weights that are stored as integers; None where that is not what is asked."""
    if before is not None or dequantizer(node.inputs[1]) is None:
        return None
    refused = fold_dequantized(node, after, axis)
    return refused or f"into the scales of the weights of {node.op_type} '{node.name}'"


def _fold(
    node: ir.Node,
    weight: np.ndarray,
    after: Affine,
    before: Affine | None,
    ungroup: Callable[[np.ndarray], np.ndarray],
    bias_index: int = 2,
) -> str | Refusal:
    """`weight` has the shape (groups, inputs of a group, outputs of a group, k…)."""
    groups, inputs, outputs, *kernel = weight.shape
    if groups * outputs != after.scale.size:
        return Refusal(f"'{node.name}' has {groups * outputs} channels, the BatchNorm {after.scale.size}")
    bias = bias_or_zeros(node, bias_index, groups * outputs)
    if isinstance(bias, Refusal):
        return bias
    ones = [1] * len(kernel)
    if before is not None:
        shift = before.shift.reshape(groups, inputs, 1, *ones)
        sums = (weight * shift).sum(axis=(1, *range(3, weight.ndim)))
        bias = bias + sums.reshape(-1)
        weight = weight * before.scale.reshape(groups, inputs, 1, *ones)
    weight = weight * after.scale.reshape(groups, 1, outputs, *ones)
    refused = write(node, {1: ungroup(weight), bias_index: bias * after.scale + after.shift})
    return refused or f"into the weights of {node.op_type} '{node.name}'"
