"""Write out ops that ONNX Runtime fused, so that the fold and the float64 truth see ONNX's own.

In: a graph, perhaps saved by ONNX Runtime's optimiser.  Out: the same one, in place.

    FusedConv(x, w, b, z)          Conv(x, w, b), Add z, its activation
    FusedGemm(a, b, c)             Gemm(a, b, c), its activation
    FusedMatMul(a, b)              alpha · MatMul of a and b, either one transposed

The runtime fuses them again when it loads what is written.  Sources: its ContribOperators.md, and for the
parameters of an activation `GetFusedActivationAttr` (Conv) and `FusedGemm`'s `activation_alpha` and others.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.graph.edit import add_initializer
from export.graph.infer import infer

DOMAIN = "com.microsoft"
_PARAMETERS = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}
"""An activation's attributes, in the order in which FusedConv's `activation_params` gives them."""
_CLIP_HAS_INPUTS = 11


def unfuse(model: ir.Model) -> None:
    """In place, in branches and bodies too; a node with what is not listed above stays.

    A file that ONNX Runtime saved states no shapes, and to transpose a tensor its rank must be known: each
    round finds the ranks after the ops that the one before wrote out.
    """
    opset = model.opset_imports.get("", 0)
    while sum(_unfuse(node, graph, opset) for graph in model.graphs() for node in list(graph)):
        infer(model)


def _unfuse(node: ir.Node, graph: ir.Graph, opset: int) -> bool:
    """Whether the node was a fused one, and is gone."""
    if node.domain != DOMAIN:
        return False
    if node.op_type == "FusedConv":
        return _unfuse_conv(node, graph, opset)
    if node.op_type == "FusedGemm":
        return _unfuse_gemm(node, graph)
    return node.op_type in ("FusedMatMul", "TransposeMatMul") and _unfuse_matmul(node, graph)


def _unfuse_conv(node: ir.Node, graph: ir.Graph, opset: int) -> bool:
    activation = node.attributes.get_string("activation", "")
    params = [float(value) for value in node.attributes.get_floats("activation_params", [])]
    rest: list[ir.Node] = []
    addend = node.inputs[3] if len(node.inputs) > 3 else None
    if addend is not None:
        rest.append(ir.node("Add", [None, addend]))
    if activation == "Clip" and len(params) == 2:
        rest.append(_clip(node, params, graph, opset))
    elif activation in _PARAMETERS:
        rest.append(ir.node(activation, [None], dict(zip(_PARAMETERS[activation], params, strict=False))))
    elif activation:
        return False
    return _replace(node, ir.Node("", "Conv", node.inputs[:3], _without_activation(node)), rest, graph)


def _clip(node: ir.Node, params: list[float], graph: ir.Graph, opset: int) -> ir.Node:
    if opset < _CLIP_HAS_INPUTS:
        return ir.node("Clip", [None], {"min": params[0], "max": params[1]})
    weight = node.inputs[1]
    assert weight is not None
    dtype = (weight.dtype or ir.DataType.FLOAT).numpy()
    ends = [
        add_initializer(graph, f"{node.name}_{name}", np.array(end, dtype))
        for name, end in zip(("min", "max"), params, strict=True)
    ]
    return ir.node("Clip", [None, *ends])


def _unfuse_gemm(node: ir.Node, graph: ir.Graph) -> bool:
    activation = node.attributes.get_string("activation", "")
    given = {
        name.removeprefix("activation_"): attribute.as_float()
        for name, attribute in node.attributes.items()
        if name.startswith("activation_")
    }
    rest = [ir.node(activation, [None], given)] if activation else []
    return _replace(node, ir.Node("", "Gemm", node.inputs, _without_activation(node)), rest, graph)


def _unfuse_matmul(node: ir.Node, graph: ir.Graph) -> bool:
    if any(node.attributes.get_int(f"transBatch{side}", 0) for side in "AB"):
        return False
    operands, before = list(node.inputs), []
    for index, side in enumerate("AB"):
        operand = operands[index]
        if not node.attributes.get_int(f"trans{side}", 0) or operand is None:
            continue
        if operand.shape is None or operand.shape.rank() < 2:
            return False
        axes = list(range(operand.shape.rank()))
        transpose = ir.node("Transpose", [operand], {"perm": [*axes[:-2], axes[-1], axes[-2]]})
        before.append(transpose)
        operands[index] = transpose.outputs[0]
    alpha, rest = node.attributes.get_float("alpha", 1.0), []
    if alpha != 1:
        dtype = (node.inputs[0].dtype if node.inputs[0] is not None else None) or ir.DataType.FLOAT
        factor = add_initializer(graph, f"{node.name}_alpha", np.array(alpha, dtype.numpy()))
        rest.append(ir.node("Mul", [None, factor]))
    graph.insert_before(node, before)
    return _replace(node, ir.node("MatMul", operands), rest, graph)


def _without_activation(node: ir.Node) -> list[ir.Attr]:
    return [attribute for name, attribute in node.attributes.items() if not name.startswith("activation")]


def _replace(node: ir.Node, first: ir.Node, rest: Sequence[ir.Node], graph: ir.Graph) -> bool:
    """Let `first`, under the node's name, and the `rest`, each after the other, stand for the node."""
    first.name = node.name
    last = first.outputs[0]
    for number, one in enumerate(rest):
        one.name = f"{node.name or node.op_type}_{one.op_type}_{number}"
        one.replace_input_with(0, last)
        last.type, last.shape = node.outputs[0].type, node.outputs[0].shape
        last = one.outputs[0]
    graph.insert_before(node, [first, *rest])
    old = node.outputs[0]
    last.name, last.type, last.shape = old.name, old.type, old.shape
    ir.convenience.replace_all_uses_with(old, last, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True
