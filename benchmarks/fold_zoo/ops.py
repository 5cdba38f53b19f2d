"""Graphs as lists of ops, for counting.

In: an ONNX file, or OpenVINO's IR.  Out: `Op`s in the order of computation.
"""

from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes

from benchmarks.fold_zoo.count import Op, Shape

OPENVINO_KINDS = {
    "Multiply": "Mul",
    "Divide": "Div",
    "Subtract": "Sub",
    "Maximum": "Max",
    "Minimum": "Min",
    "Convolution": "Conv",
    "GroupConvolution": "Conv",
    "BatchNormInference": "BatchNormalization",
}
OPENVINO_BIASED = ("MatMul", "Conv", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MVN")
"""OpenVINO writes the biases of all of these, and a LayerNorm's shift after MVN, as separate ops."""


def onnx_ops(path: Path) -> list[Op]:
    """The ops of a file, including those in subgraphs and of ONNX Runtime's own domains."""
    model = ir.load(path)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.ShapeInferencePass()(model)
    nodes = list(model.graph.all_nodes())
    known = {id(value) for value in model.graph.inputs}
    for node in nodes:
        if any(id(value) in known for value in node.inputs if value is not None):
            known |= {id(output) for output in node.outputs}
    return [_onnx_op(node, known) for node in nodes]


def _onnx_op(node: ir.Node, depends: set[int]) -> Op:
    inputs = [value for value in node.inputs if value is not None]
    return Op(
        kind=node.op_type,
        data=tuple(str(value.name) for value in inputs if id(value) in depends),
        constants=tuple(_onnx_shape(value) for value in inputs if id(value) not in depends),
        outputs=tuple(str(output.name) for output in node.outputs),
        group=node.attributes.get_int("group", 1),
    )


def _onnx_shape(value: ir.Value) -> Shape | None:
    shape = value.const_value.shape if value.const_value is not None else value.shape
    if shape is None or not all(isinstance(size, int) for size in shape):
        return None
    return tuple(int(str(size)) for size in shape)


def openvino_ops(model: Any) -> list[Op]:
    """The ops of an `openvino.Model`."""
    depends: set[str] = set()
    found = []
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        sources = [source.get_source_output() for source in node.inputs()]
        names = [f"{source.get_node().get_name()}:{source.get_index()}" for source in sources]
        outputs = tuple(f"{node.get_name()}:{index}" for index in range(len(node.outputs())))
        if kind == "Parameter" or any(name in depends for name in names):
            depends |= set(outputs)
        constants = [
            _openvino_shape(source)
            for name, source in zip(names, sources, strict=True)
            if name not in depends
        ]
        group = 1
        if kind == "GroupConvolution" and constants and constants[0] is not None:
            group, *rest = constants[0]
            constants[0] = (group * rest[0], *rest[1:])
        if kind not in ("Parameter", "Constant", "Result"):
            data = tuple(name for name in names if name in depends)
            op_kind = OPENVINO_KINDS.get(kind, kind)
            found.append(
                Op(kind=op_kind, data=data, constants=tuple(constants), outputs=outputs, group=group)
            )
    return found


def _openvino_shape(source: Any) -> Shape | None:
    shape = source.get_partial_shape()
    return tuple(shape.to_shape()) if shape.is_static else None
