"""How a fold writes new weights: computed in float64, cast once, refused if the cast breaks them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.graph.edit import add_initializer, constant, onnx_op


@dataclass(frozen=True)
class Refusal:
    """Why an op's weights cannot take a scale and shift."""

    reason: str


def weight_of(node: ir.Node, index: int) -> np.ndarray | Refusal:
    """Input `index` of the node in float64, if it is constant."""
    array = constant(node.inputs[index]) if index < len(node.inputs) else None
    if array is None:
        return Refusal(f"the weights of {node.op_type} '{node.name}' are computed at run time")
    return array.astype(np.float64)


def own_weight(node: ir.Node, index: int) -> np.ndarray | Refusal:
    """Input `index` of the node in float64, if it is constant and read by this node alone."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is not None and (len(value.uses()) > 1 or value.is_graph_output()):
        return Refusal(f"weight '{value.name}' of '{node.name}' has another reader")
    return weight_of(node, index)


def bias_or_zeros(node: ir.Node, index: int, channels: int) -> np.ndarray | Refusal:
    """Input `index` of the node in float64, shape (channels,); zeros if it is left out."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return np.zeros(channels)
    array = constant(value)
    if array is None:
        array = dequantized(value)
    if array is None:
        return Refusal(f"the bias of {node.op_type} '{node.name}' is computed at run time")
    return array.astype(np.float64)


def dequantizer(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes a value, if its scale and zero point are constant; else None."""
    node = value.producer() if value is not None else None
    if onnx_op(node) != "DequantizeLinear" or node is None:
        return None
    parameters = [one for one in node.inputs[1:] if one is not None]
    return node if all(constant(one) is not None for one in parameters) else None


def dequantized(value: ir.Value | None) -> np.ndarray | None:
    """A vector of integers times their scale, in float64; None if it is anything else."""
    node = dequantizer(value)
    if node is None:
        return None
    integers, *parameters = [constant(one) for one in node.inputs if one is not None]
    if integers is None or integers.ndim != 1 or any(one is None or one.ndim > 1 for one in parameters):
        return None
    scale, zero, *_ = (*(np.asarray(one, dtype=np.float64) for one in parameters), np.zeros(()))
    return np.asarray((integers.astype(np.float64) - zero) * scale)


def write(node: ir.Node, arrays: dict[int, np.ndarray], label: str = "folded") -> Refusal | None:
    """Give the node new constant inputs in its weights' own dtype; all of them, or none with the reason.

    A weight that another node reads too stays as it is for that node: this one gets a copy.
    """
    assert node.graph is not None
    weight = node.inputs[min(arrays)]
    assert weight is not None
    original = constant(weight)
    assert original is not None
    with np.errstate(over="ignore"):
        cast = {index: array.astype(original.dtype) for index, array in arrays.items()}
    if not all(np.isfinite(array.astype(np.float64)).all() for array in cast.values()):
        return overflowing(node, arrays, f"the folded weights of '{node.name}' overflow {original.dtype}")
    for index, array in cast.items():
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        old = node.inputs[index]
        stem = old.name if old is not None else f"{node.name}.bias"
        stem = (stem or "").removesuffix(f".{label}")
        node.replace_input_with(index, add_initializer(node.graph, f"{stem}.{label}", array))
    return None


def overflowing(node: ir.Node, indices: Iterable[int], words: str) -> Refusal:
    """These `words`, or that its inputs at these indices were non-finite before anything was folded."""
    read = [constant(node.inputs[index]) for index in indices if index < len(node.inputs)]
    if all(array is None or np.isfinite(array.astype(np.float64)).all() for array in read):
        return Refusal(words)
    return Refusal(f"the weights of '{node.name}' are non-finite as they were read")


def shared(node: ir.Node) -> str:
    """What a new copy of a weight costs, for the account; nothing if no other node reads the old one."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is None or len(weight.uses()) == 1 or weight.const_value is None:
        return ""
    return f"; its weights were shared: a copy of {weight.const_value.nbytes:,} bytes"
