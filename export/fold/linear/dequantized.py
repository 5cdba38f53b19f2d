"""Write a scale and shift into a linear op whose weights are stored as integers.

    w[o] = (q[o] − z[o]) · d[o]          (ONNX DequantizeLinear)

    d'[o] = |s[o]| · d[o]                bias' = s · bias + t, in float
    q'[o] = 2 · z[o] − q[o]              where s[o] < 0, if its dtype holds that: a scale must be positive
    q'[o] = z[o]                         where s[o] = 0

The integers and their zero points stay as they are wherever s > 0, so nothing is quantized anew.  One scale
for the whole tensor becomes one for each output channel, which DequantizeLinear can have from opset 13 on.

An int32 bias becomes a float one: runtimes take its scale for that of the input times that of the weights,
which a shift does not keep.
"""

import ml_dtypes
import numpy as np
import onnx_ir as ir

from export.fold.batchnorm import Affine
from export.fold.linear.weights import Refusal, bias_or_zeros, dequantizer, overflowing
from export.graph.edit import add_initializer, constant

FIRST_PER_CHANNEL = 13


def fold_dequantized(node: ir.Node, after: Affine, axis: int, bias_factor: float = 1.0) -> Refusal | None:
    """Scale and shift the output of `node`, whose weights have their output channels on `axis`.

    `bias_factor` is what the node multiplies its bias by.
    """
    source = dequantizer(node.inputs[1])
    if source is None or node.graph is None:
        return Refusal(f"the weights of {node.op_type} '{node.name}' are computed at run time")
    bias = bias_or_zeros(node, 2, after.scale.size)
    if isinstance(bias, Refusal):
        return bias
    new = _scaled(source, node, after.scale, axis)
    if isinstance(new, Refusal):
        return new
    dtype = new[1].dtype
    with np.errstate(over="ignore"):
        shifted = (bias_factor * bias.reshape(-1) * after.scale + after.shift).astype(dtype)
    if not np.isfinite(shifted).all():
        return overflowing(node, [2], f"the folded bias of '{node.name}' overflows {dtype}")
    node.replace_input_with(1, _copy(source, new, axis))
    node.resize_inputs(3)
    node.replace_input_with(2, add_initializer(node.graph, f"{node.name}.bias.folded", shifted))
    return None


_New = tuple[np.ndarray | None, np.ndarray, np.ndarray | None]
"""The integers, None where they stay; the scales; the zero points, None where there are none."""


def _scaled(source: ir.Node, node: ir.Node, scale: np.ndarray, axis: int) -> _New | Refusal:
    """What the DequantizeLinear reads, with each output channel multiplied by `scale`."""
    name = f"DequantizeLinear '{source.name}' before {node.op_type} '{node.name}'"
    steps, zeros = constant(source.inputs[1]), _zero_points(source)
    assert steps is not None
    weights, shape = constant(source.inputs[0]), source.outputs[0].shape
    rank = weights.ndim if weights is not None else len(shape) if shape is not None else 0
    if source.attributes.get_int("block_size", 0):
        return Refusal(f"{name} has a scale for each block")
    own_axis = source.attributes.get_int("axis", 1)
    if steps.size > 1 and (own_axis % rank if rank else own_axis) != axis:
        return Refusal(
            f"{name} has a scale for each place of axis {own_axis}, and outputs are on axis {axis}"
        )
    if steps.size not in (1, scale.size):
        return Refusal(f"{name} has {steps.size} scales for {scale.size} channels")
    if steps.size == 1 and (scale != scale[0]).any() and _opset(source) < FIRST_PER_CHANNEL:
        return Refusal(f"{name} can have one scale only, before opset {FIRST_PER_CHANNEL}")
    is_one = steps.size == 1 and bool((scale == scale[0]).all())
    factors = np.where(scale == 0, 1.0, np.abs(scale))
    new_steps = (factors[:1] if is_one else factors) * steps.astype(np.float64).reshape(-1)
    with np.errstate(over="ignore", under="ignore"):
        cast = new_steps.astype(steps.dtype).reshape(steps.shape if is_one else -1)
    if not np.isfinite(cast.astype(np.float64)).all() or (np.abs(cast) < np.finfo(steps.dtype).tiny).any():
        return Refusal(f"the folded scales of {name} are beyond {steps.dtype}")
    if (scale > 0).all():
        return None, cast, zeros
    turned = int((scale <= 0).sum())
    if weights is None:
        return Refusal(f"γ ≤ 0 in {turned} channels, and the integers of {name} are computed at run time")
    if not weights.dtype.name.startswith(("int", "uint")):
        return Refusal(f"γ ≤ 0 in {turned} channels, and the numbers of {name} are {weights.dtype}")
    new = _turned(weights, 0 if zeros is None else zeros, scale, axis)
    if new is None:
        return Refusal(f"γ < 0 in {turned} channels, and {weights.dtype} cannot hold {name} negated")
    return new, cast, zeros


def _turned(weights: np.ndarray, zeros: np.ndarray | int, scale: np.ndarray, axis: int) -> np.ndarray | None:
    """The integers mirrored at their zero point where the scale is negative; None if that does not fit."""
    shape = [1] * weights.ndim
    shape[axis] = scale.size
    signs = np.sign(scale).astype(np.int64).reshape(shape)
    centre = np.broadcast_to(np.asarray(zeros, dtype=np.int64).reshape(-1), (scale.size,)).reshape(shape)
    new = centre + signs * (weights.astype(np.int64) - centre)
    limits = ml_dtypes.iinfo(weights.dtype)  # type: ignore[no-untyped-call]  # of int4 too
    if new.min(initial=0) < limits.min or new.max(initial=0) > limits.max:
        return None
    return np.asarray(new.astype(weights.dtype))


def _zero_points(source: ir.Node) -> np.ndarray | None:
    return constant(source.inputs[2]) if len(source.inputs) > 2 else None


def _copy(source: ir.Node, new: _New, axis: int) -> ir.Value:
    """The output of a DequantizeLinear of the new numbers; the old one stays for its other readers."""
    graph = source.graph
    assert isinstance(graph, ir.Graph)
    weights, steps, zeros = new
    inputs = [source.inputs[0], add_initializer(graph, f"{source.name}.scale.folded", steps)]
    if weights is not None:
        inputs[0] = add_initializer(graph, f"{source.name}.folded", weights)
    if zeros is not None:
        whole = (
            zeros if zeros.shape == steps.shape else np.broadcast_to(zeros.reshape(-1), steps.shape).copy()
        )
        inputs.append(add_initializer(graph, f"{source.name}.zero.folded", whole))
    attributes = [one for one in source.attributes.values() if one.name != "axis"]
    if steps.size > 1:
        attributes.append(ir.AttrInt64("axis", axis))
    copy = ir.Node(
        "",
        "DequantizeLinear",
        inputs,
        attributes,
        num_outputs=1,
        name=f"{source.name}.folded",
    )
    copy.outputs[0].name = f"{source.outputs[0].name}.folded"
    copy.outputs[0].shape, copy.outputs[0].type = source.outputs[0].shape, source.outputs[0].type
    graph.insert_after(source, copy)
    return copy.outputs[0]


def _opset(node: ir.Node) -> int:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph.opset_imports.get("", 0)
