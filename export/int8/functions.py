"""What an op computes of each number alone: Relu, Clip, Sigmoid, and chains of such.

In: a node, or two tensors.  Out: a function of arrays, or None where it is something else.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from export.graph.edit import constant, onnx_op

Function = Callable[[np.ndarray], np.ndarray]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))))


def _gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


_FUNCTIONS: dict[str, Function] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": _sigmoid,
    "Tanh": np.tanh,
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Softplus": lambda x: np.logaddexp(x, 0),
    "Mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "Gelu": _gelu,
    "Abs": np.abs,
    "Neg": np.negative,
}


def function_of(node: ir.Node) -> Function | None:
    """What a node computes of each number alone, None if it is something else."""
    op_type = onnx_op(node) or ""
    if op_type == "LeakyRelu":
        alpha = node.attributes.get_float("alpha", 0.01)
        return lambda x: np.where(x < 0, alpha * x, x)
    if op_type == "Elu":
        scale = node.attributes.get_float("alpha", 1.0)
        return lambda x: np.where(x < 0, scale * np.expm1(np.minimum(x, 0)), x)
    if op_type == "HardSigmoid":
        slope = node.attributes.get_float("alpha", 0.2)
        start = node.attributes.get_float("beta", 0.5)
        return lambda x: np.clip(slope * x + start, 0, 1)
    if op_type == "PRelu" and (slopes := constant(node.inputs[1])) is not None:
        return lambda x: np.where(x < 0, slopes * x, x)
    if op_type == "Clip" and (limits := clip_limits(node)) is not None:
        return lambda x: np.clip(x, *limits)
    return _FUNCTIONS.get(op_type)


def clip_limits(clip: ir.Node) -> tuple[float, float] | None:
    """Where a Clip cuts, ±∞ where it does not; None if that is computed at run time."""
    limits = []
    for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        value = clip.inputs[index] if index < len(clip.inputs) else None
        array = constant(value)
        if value is not None and array is None:
            return None
        limits.append(
            clip.attributes.get_float(name, default) if array is None else float(np.ravel(array)[0])
        )
    return limits[0], limits[1]


def times_x(function: Function) -> Function:
    """x · f(x)."""
    return lambda x: x * function(x)


def function_between(value: ir.Value | None, root: ir.Value | None) -> Function | None:
    """What was computed of `root`, number by number, to get `value`: Clip(x + 3, 0, 6) / 6.  Else None."""
    steps: list[Function] = []
    while value is not root:
        producer = value.producer() if value is not None else None
        if producer is None:
            return None
        step, source = _step(producer)
        if step is None:
            return None
        steps.append(step)
        value = source

    def composed(x: np.ndarray) -> np.ndarray:
        for step in reversed(steps):
            x = step(x)
        return x

    return composed


_ARITHMETIC: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
}


def _step(node: ir.Node) -> tuple[Function | None, ir.Value | None]:
    """A node as a function of one input, and that input: of a number alone, or with one constant number."""
    op_type = onnx_op(node) or ""
    if op_type not in _ARITHMETIC:
        return function_of(node), node.inputs[0] if node.inputs else None
    compute = _ARITHMETIC[op_type]
    first, second = (constant(value) for value in node.inputs)
    if second is not None and second.size == 1:
        right = second.reshape(()).astype(np.float64)
        return (lambda x: compute(x, right)), node.inputs[0]
    if first is not None and first.size == 1:
        left = first.reshape(()).astype(np.float64)
        return (lambda x: compute(left, x)), node.inputs[1]
    return None, None
