"""Give an op's output the rank and type that its weights or its input tell, where inference finds none.

    Conv, ConvTranspose of a weight (O, I, kH, kW)   →   (?, O, ?, ?)        Gemm   →   (?, O)
    GroupNormalization of x                          →   as x
    Compress of x along an axis                      →   as x, and there as many as the condition holds for

Inference stops at an op of another domain, and at some of ONNX's own; without a rank no fold looks further.
"""

import onnx_ir as ir

from export.graph.edit import constant, onnx_op

_KEEP_SHAPE = {"GroupNormalization"}


def infer_ranks(model: ir.Model) -> bool:
    """In place; whether any was found."""
    found = [_set_rank(node) for graph in model.graphs() for node in graph]
    return any(found)


def _set_rank(node: ir.Node) -> bool:
    op_type = onnx_op(node)
    if op_type in _KEEP_SHAPE:
        return _keep_shape(node)
    if op_type == "Compress":
        return _size_compressed(node)
    if op_type not in ("Conv", "ConvTranspose", "Gemm") or node.outputs[0].shape is not None:
        return False
    weight = constant(node.inputs[1])
    if weight is None or (op_type == "Gemm" and node.attributes.get_int("transA", 0) == 1):
        return False
    channels = weight.shape[0]
    if op_type == "ConvTranspose":
        channels = weight.shape[1] * node.attributes.get_int("group", 1)
    elif op_type == "Gemm":
        channels = weight.shape[0 if node.attributes.get_int("transB", 0) else 1]
    node.outputs[0].type = node.outputs[0].type or ir.TensorType(ir.DataType.from_numpy(weight.dtype))
    node.outputs[0].shape = ir.Shape([None, int(channels), *[None] * (weight.ndim - 2)])
    return True


def _keep_shape(node: ir.Node) -> bool:
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or output.shape is not None:
        return False
    output.type, output.shape = output.type or source.type, source.shape.copy()
    return True


def _size_compressed(node: ir.Node) -> bool:
    """Inference finds the rank alone; a BatchNorm after it needs to know its channels."""
    source, output, axis = node.inputs[0], node.outputs[0], node.attributes.get_int("axis", None)
    if source is None or source.shape is None or axis is None:
        return False
    if output.shape is not None and any(isinstance(size, int) for size in output.shape):
        return False
    sizes: list[int | ir.SymbolicDim | None] = [*source.shape]
    condition = constant(node.inputs[1])
    sizes[axis] = None if condition is None else int(condition.sum())
    if not any(isinstance(size, int) for size in sizes):
        return False
    output.type, output.shape = output.type or source.type, ir.Shape(sizes)
    return True
