"""DeformConv with constant weights takes any gauge on its output, and any a on its picture.

    y[o] = Σ W[o, i] · m · x[i, at places moved by offsets] + c[o]
    W'[o, i] = a_o · W[o, i] / a_i      c' = a_o · (c + b_o)

Offsets lead anywhere, and what lies outside of the picture is 0, so b_i = 0 even without padding; the mask m
makes the sum of taps another one at each place.  Offsets and mask stay what they are.
"""

import onnx_ir as ir

from export.fold.gauges.absorb import affine_after, affine_before, check
from export.fold.gauges.system import Solution, System, has_constant, on_axis
from export.fold.linear.conv import fold_deform_conv
from export.graph.edit import constant

BIAS = 3


def constrain(node: ir.Node, system: System) -> bool:
    """One unknown for each output channel; everything computed besides the picture is fixed."""
    source, weight = node.inputs[0], constant(node.inputs[1])
    has_bias = len(node.inputs) > BIAS and node.inputs[BIAS] is not None
    if source is None or weight is None or (has_bias and not has_constant(node, BIAS)):
        return False
    given = system.narrow(source, 1, node)
    if given is None:
        return False
    system.no_offset(given, node, "the border of")
    for value in node.inputs[2:]:
        if value is not None and constant(value) is None:
            system.fix(system.of(value), f"the offsets and mask of {node.op_type} '{node.name}' must stay")
    system.ids[node.outputs[0]] = system.fresh(on_axis(weight.ndim, 1, weight.shape[0]))
    return True


def absorb(node: ir.Node, solution: Solution) -> None:
    """Write the gauges around the node into its weights."""
    weight = constant(node.inputs[1])
    assert weight is not None
    inputs = weight.shape[1] * node.attributes.get_int("group", 1)
    before = affine_before(solution, node, 1, inputs)
    check(fold_deform_conv(node, affine_after(solution, node, 1, weight.shape[0]), before))
