"""Give an op's output the rank and type that its weights or its input tell, where inference finds none.

    Conv, ConvTranspose of a weight (O, I, kH, kW)   →   (?, O, ?, ?)        Gemm   →   (?, O)
    GroupNormalization of x                          →   as x
    com.microsoft's SkipLayerNormalization, Gelu …   →   as x; Attention and the like: features of their own
    Compress of x along an axis                      →   as x, and there as many as the condition holds for

Inference stops at an op of another domain, and at some of ONNX's own; without a rank no fold looks further.
"""

import onnx_ir as ir

from export.graph.edit import constant, onnx_op

_KEEP_SHAPE = {"GroupNormalization", "SimplifiedLayerNormalization"}
_FUSED = "com.microsoft"
_FUSED_KEEP_SHAPE = {
    "BiasAdd",
    "BiasDropout",
    "BiasGelu",
    "FastGelu",
    "Gelu",
    "GroupNorm",
    "QuickGelu",
    "RotaryEmbedding",
    "SkipGroupNorm",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
}
_SUM = {"SkipLayerNormalization": 3, "SkipSimplifiedLayerNormalization": 3, "SkipGroupNorm": 1}
"""Which further output is the sum of the inputs, in the same shape."""


def infer_ranks(model: ir.Model) -> bool:
    """In place; whether any was found."""
    found = [_set_rank(node) for graph in model.graphs() for node in graph]
    return any(found)


def _set_rank(node: ir.Node) -> bool:
    if node.domain == _FUSED:
        return _set_rank_of_fused(node)
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


def _keep_shape(node: ir.Node, place: int = 0) -> bool:
    source = node.inputs[0]
    return source is not None and source.shape is not None and _state(node, list(source.shape), place)


def _set_rank_of_fused(node: ir.Node) -> bool:
    """Of what ONNX Runtime's optimiser fuses, and no inference of ONNX's knows."""
    if node.op_type in _FUSED_KEEP_SHAPE:
        is_found = _keep_shape(node)
        place = _SUM.get(node.op_type, 0)
        return (0 < place < len(node.outputs) and _keep_shape(node, place)) or is_found
    source = node.inputs[0]
    if source is None or source.shape is None or not len(source.shape):
        return False
    if node.op_type == "MatMulNBits":
        return _state(node, [*source.shape[:-1], node.attributes.get_int("N", None)])
    if node.op_type == "Attention":  # of q, k and v side by side
        weight = constant(node.inputs[1])
        own = node.attributes.get_ints("qkv_hidden_sizes", ())
        size = own[-1] if own else None if weight is None else weight.shape[1] // 3
        return _state(node, [*source.shape[:-1], size])
    if node.op_type == "MultiHeadAttention" and len(source.shape) == 3:
        value = node.inputs[2] if len(node.inputs) > 2 else None
        is_plain = value is not None and value.shape is not None and len(value.shape) == 3
        features = value.shape[2] if is_plain and value is not None and value.shape is not None else None
        return _state(node, [*source.shape[:-1], features])
    return False


def _state(node: ir.Node, sizes: list[int | ir.SymbolicDim | None], place: int = 0) -> bool:
    """Write the shape of an output that has none, and the first input's type; whether it had none."""
    source, output = node.inputs[0], node.outputs[place]
    if source is None or output.shape is not None:
        return False
    output.type, output.shape = output.type or source.type, ir.Shape(sizes)
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
