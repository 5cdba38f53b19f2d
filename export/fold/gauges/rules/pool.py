"""Pooling passes gauges on.

max(a · (x + b))  = a · (max(x) + b)   for a > 0          MaxPool, GlobalMaxPool, ReduceMax, ReduceMin
mean(a · (x + b)) = a · (mean(x) + b)                     AveragePool, GlobalAveragePool, ReduceMean
sum(a · (x + b))  = a · (sum(x) + k·b) for k numbers       ReduceSum over known sizes
sum(a · x)        = a · sum(x)         for b = 0          ReduceSum, CumSum, MaxUnpool, a mean with zeros
norm(a · x)       = a · norm(x)        for a > 0, b = 0   LpPool, GlobalLpPool, ReduceL1, ReduceL2
"""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.system import System, vary
from export.graph.edit import constant


def constrain_max(node: ir.Node, system: System) -> bool:
    """MaxPool pads with −∞, which is no value of anyone's."""
    return _pass_on(node, system) and _positive(node, system)


def constrain_average(node: ir.Node, system: System) -> bool:
    """AveragePool and GlobalAveragePool."""
    if not _pass_on(node, system):
        return False
    padded = any(node.attributes.get_ints("pads", [])) or node.attributes.get_int("ceil_mode", 0) == 1
    padded = padded or node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME")
    if padded and node.attributes.get_int("count_include_pad", 0) == 1:
        system.no_offset(system.of(node.outputs[0]), node, "the zero padding averaged by")
    return True


def constrain_reduce(node: ir.Node, system: System) -> bool:
    """A reduction over axes along which the gauge does not vary."""
    source = node.inputs[0]
    axes = node.attributes.get_ints("axes", None)
    if axes is None and len(node.inputs) > 1:
        given_axes = constant(node.inputs[1])
        axes = None if given_axes is None else [int(axis) for axis in given_axes]
    if source is None or source.shape is None or not axes:
        return False
    given = system.of(source)
    if any(vary(given, axis) for axis in axes):
        return False
    keep = node.attributes.get_int("keepdims", 1) == 1
    out = given if keep else np.squeeze(given, tuple(axis % given.ndim for axis in axes))
    system.ids[node.outputs[0]] = out
    sizes = [source.shape[axis] for axis in axes]
    if node.op_type == "ReduceSum" and all(isinstance(size, int) for size in sizes):
        total = system.fresh(out.shape)
        system.same_scale(total, out, f"ReduceSum '{node.name}' passes the scale on")
        count = float(np.prod([int(size) for size in sizes if isinstance(size, int)]))
        system.offset(f"ReduceSum '{node.name}' sums up the shift", (total, 1.0), (out, -count))
        system.ids[node.outputs[0]] = total
        return True
    if node.op_type in ("ReduceSum", "ReduceL1", "ReduceL2"):
        system.no_offset(given, node, "the sum of")
    return node.op_type in ("ReduceSum", "ReduceMean") or _positive(node, system)


def constrain_norm(node: ir.Node, system: System) -> bool:
    """LpPool and GlobalLpPool."""
    if not _pass_on(node, system):
        return False
    system.no_offset(system.of(node.outputs[0]), node, "the norm of")
    return _positive(node, system)


def constrain_unpool(node: ir.Node, system: System) -> bool:
    """MaxUnpool puts numbers back to their places, and 0 between them."""
    if not _pass_on(node, system):
        return False
    system.no_offset(system.of(node.outputs[0]), node, "the zero filling of")
    return True


def constrain_cumulative(node: ir.Node, system: System) -> bool:
    """CumSum along an axis where the gauge does not vary."""
    source, axis = node.inputs[0], constant(node.inputs[1])
    if source is None or source.shape is None or axis is None:
        return False
    given = system.of(source)
    if vary(given, int(np.ravel(axis)[0])):
        return False
    system.no_offset(given, node, "the sum of")
    system.ids[node.outputs[0]] = given
    return True


def _pass_on(node: ir.Node, system: System) -> bool:
    source = node.inputs[0]
    given = None if source is None else system.narrow(source, 1, node)
    if given is None:
        return False
    system.ids[node.outputs[0]] = given
    return True


def _positive(node: ir.Node, system: System) -> bool:
    system.positive(system.of(node.outputs[0]), node)
    return True
