"""LayerNormalization, InstanceNormalization, GroupNormalization and RMSNormalization with constant γ and β.

    y = γ · z + β       z has no scale or shift to take: it is x normalised by its own mean and deviation
    γ' = a · γ          β' = a · (β + b)

What they read must stay as it is: a scale of one channel is no scale of a mean over many, and even that of
a channel alone changes what ε is added to.  RMSNormalization has no β, so b = 0.

One γ for each place of an axis.  Below opset 21 GroupNormalization has one for each group: its channels
share a gauge.  A LayerNormalization over several axes has a γ for each place of them all, and takes a gauge
for each channel, axis 1.
"""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.absorb import check
from export.fold.gauges.system import Solution, System, has_constant, on_axis
from export.fold.linear.weights import write
from export.graph.edit import constant

SCALE, BIAS = 1, 2


def constrain(node: ir.Node, system: System) -> bool:
    """A gauge for each place of γ, and none on the input."""
    source, scale = node.inputs[0], constant(node.inputs[SCALE])
    has_bias = len(node.inputs) > BIAS and node.inputs[BIAS] is not None
    if source is None or source.shape is None or scale is None or scale.dtype.kind != "f":
        return False
    bias = constant(node.inputs[BIAS]) if has_bias else None
    if has_bias and (bias is None or bias.shape != scale.shape):
        return False
    by_features = node.op_type in ("LayerNormalization", "RMSNormalization")
    out = (_by_features if by_features else _by_channels)(node, source.shape, scale, system)
    if out is None:
        return False
    system.fix(system.of(source), f"{node.op_type} '{node.name}' cannot absorb a scale or shift")
    if node.op_type == "RMSNormalization":
        system.no_offset(out, node, "the missing bias of")
    system.ids[node.outputs[0]] = out
    return True


def absorb(node: ir.Node, solution: Solution) -> None:
    """Write the output's gauge into γ and β; a β that is left out is 0."""
    if solution.is_plain(node.outputs[0]):
        return
    scale = constant(node.inputs[SCALE])
    assert scale is not None
    ids = solution.system.of(node.outputs[0])
    if node.op_type in ("LayerNormalization", "RMSNormalization"):
        ids = ids.reshape(ids.shape[ids.ndim - scale.ndim :])
    else:  # of opset 18 every group's first channel
        ids = ids.reshape(scale.size, -1)[:, 0]
    a, b = solution.a[ids], solution.b[ids]
    arrays = {SCALE: a * scale.astype(np.float64)}
    if node.op_type != "RMSNormalization":
        bias = constant(node.inputs[BIAS]) if has_constant(node, BIAS) else None
        arrays[BIAS] = a * (np.zeros(scale.shape) if bias is None else bias.astype(np.float64)) + a * b
        arrays[BIAS] = np.broadcast_to(arrays[BIAS], scale.shape)
    check(write(node, arrays))


def _by_features(node: ir.Node, shape: ir.Shape, scale: np.ndarray, system: System) -> np.ndarray | None:
    """γ has the sizes of the axes that are normalised, the last ones."""
    rank = len(shape)
    first = node.attributes.get_int("axis", -1) % rank
    if scale.ndim != rank - first or list(scale.shape) != list(shape[first:]):
        return None
    axis = first if scale.ndim == 1 else 1
    return system.fresh(on_axis(rank, axis, scale.shape[axis - first])) if axis >= first else None


def _by_channels(node: ir.Node, shape: ir.Shape, scale: np.ndarray, system: System) -> np.ndarray | None:
    """γ has a number for each channel, axis 1, or for each group of them."""
    rank = len(shape)
    channels = shape[1] if rank > 2 else None
    if scale.ndim != 1 or not isinstance(channels, int):
        return None
    if scale.size not in (channels, node.attributes.get_int("num_groups", channels)) or channels % scale.size:
        return None
    return system.fresh(scale.shape).repeat(channels // scale.size).reshape(on_axis(rank, 1, channels))
