"""How a fold writes new weights: computed in float64, cast once, refused if the cast breaks them."""

import numpy as np
import onnx_ir as ir

from export.batchnorm import Declined
from export.graph import add_initializer, constant


def own_weight(node: ir.Node, index: int) -> np.ndarray | Declined:
    """Input `index` of the node in float64, if it is constant and read by this node alone."""
    value = node.inputs[index] if index < len(node.inputs) else None
    array = constant(value)
    if value is None or array is None:
        return Declined(reason=f"the weights of {node.op_type} '{node.name}' are computed at run time")
    if len(value.uses()) > 1 or value.is_graph_output():
        others = [reader.name for reader, _ in value.uses() if reader is not node]
        readers = ", ".join(f"'{name}'" for name in others) or "the same node again or the graph's output"
        return Declined(reason=f"weight '{value.name}' of '{node.name}' is also read by {readers}")
    return array.astype(np.float64)


def bias_or_zeros(node: ir.Node, index: int, channels: int) -> np.ndarray | Declined:
    """Input `index` of the node in float64, shape (channels,); zeros if it is left out."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return np.zeros(channels)
    array = constant(value)
    if array is None:
        return Declined(reason=f"the bias of {node.op_type} '{node.name}' is computed at run time")
    return array.astype(np.float64)


def write(node: ir.Node, arrays: dict[int, np.ndarray], label: str) -> Declined | None:
    """Give the node new constant inputs in its weights' own dtype; all of them, or none with the reason."""
    assert node.graph is not None
    weight = node.inputs[min(arrays)]
    assert weight is not None
    original = constant(weight)
    assert original is not None
    with np.errstate(over="ignore"):
        cast = {index: array.astype(original.dtype) for index, array in arrays.items()}
    if not all(np.isfinite(array.astype(np.float64)).all() for array in cast.values()):
        return Declined(reason=f"the folded weights of '{node.name}' overflow {original.dtype}")
    for index, array in cast.items():
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        old = node.inputs[index]
        stem = old.name if old is not None else f"{node.name}.bias"
        node.replace_input_with(index, add_initializer(node.graph, f"{stem}.{label}", array))
    return None
