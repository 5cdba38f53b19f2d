"""Find what acts as a BatchNorm but is written as Mul, Add, Sub and Div with constants.

In: a graph whose constants are computed.  Out: its chains of such ops, and each as one BatchNormalization.

    y = s · x + t, one s and one t for each place of one axis

So Keras, Caffe's Scale, frozen BatchNorms and torch's decompositions write it, and the axis need not be 1:
the node that takes a chain's place has an attribute `axis`, which ONNX's own has not.  It exists only inside
a fold: a chain that cannot go stays as it was written (see `export.fold.per_channel`).

A chain that only shifts is a bias.  It is taken where a Conv or Gemm stands right before it: then it goes.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.graph.edit import add_initializer, constant, has_one_reader, onnx_op

AXIS = "axis"
_OPS = {"Mul", "Add", "Sub", "Div"}
_BIASED = {"Conv", "ConvTranspose", "Gemm"}
_NORMALISED = {"Div", "Mul", "Sub", "Softmax", "LayerNormalization", "InstanceNormalization"}
_NORMALISED |= {"GroupNormalization", "RMSNormalization", "MeanVarianceNormalization", "LpNormalization"}
_MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze"}


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One op as s · x + t along an axis; s and t of shape (C,), or of (1,), and then the axis is None."""

    node: ir.Node
    scale: np.ndarray
    shift: np.ndarray
    axis: int | None


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Ops that follow each other and act as one BatchNorm: y = scale · x + shift, each of shape (C,)."""

    steps: list[_Step]
    axis: int

    @property
    def name(self) -> str:
        """That of its first op."""
        return self.steps[0].node.name or ""

    @property
    def source(self) -> ir.Value:
        """What its first op reads; another value where a chain right before it has been replaced."""
        return next(
            value for value in self.steps[0].node.inputs if value is not None and constant(value) is None
        )


def is_decomposed(node: ir.Node) -> bool:
    """Whether a BatchNormalization stands for a chain."""
    return AXIS in node.attributes


def axis_of(node: ir.Node) -> int:
    """The axis of a BatchNormalization's channels."""
    return node.attributes.get_int(AXIS, 1)


def chains(graph: ir.Graph, known: Container[str | None]) -> list[Chain]:
    """Maximal chains along one axis, each op read by the next alone, where a fold may be possible.

    `known` are the names of the ops that may be part of one: those of the file, not what a fold has added.
    """
    return [chain for chain in _maximal(graph, known) if _may_go(chain)]


def _maximal(graph: ir.Graph, known: Container[str | None]) -> Iterator[Chain]:
    taken: set[ir.Node] = set()
    for node in graph:
        if node in taken or (step := _read(node, known)) is None:
            continue
        steps, axis = [step], step.axis
        while (
            has_one_reader(output := steps[-1].node.outputs[0])
            and (reader := output.consumers()[0]).graph is graph
            and (step := _read(reader, known)) is not None
            and (axis is None or step.axis in (axis, None))
        ):
            steps.append(step)
            axis = step.axis if axis is None else axis
        taken |= {step.node for step in steps}
        if axis is not None:
            yield Chain(steps=steps, axis=axis)


def _may_go(chain: Chain) -> bool:
    source = chain.source
    producer = source.producer()
    if all(step.node.op_type in ("Add", "Sub") and (step.scale == 1).all() for step in chain.steps):
        return chain.axis == 1 and onnx_op(producer) in _BIASED and has_one_reader(source)
    if source.is_graph_input():  # pixels that the net normalises itself, often with channels last
        return True
    # On another axis than 1 it may end a LayerNorm, which ONNX Runtime computes as one node if it is whole.
    while chain.axis != 1 and producer is not None and onnx_op(producer) in _MOVES and producer.inputs[0]:
        producer = producer.inputs[0].producer()
    return chain.axis == 1 or not (onnx_op(producer) is None or onnx_op(producer) in _NORMALISED)


def _read(node: ir.Node, known: Container[str | None]) -> _Step | None:
    op_type = onnx_op(node)
    if op_type not in _OPS or node.name not in known or len(node.inputs) != 2:
        return None
    index = 1 if constant(node.inputs[1]) is not None else 0
    array, source = constant(node.inputs[index]), node.inputs[1 - index]
    if array is None or source is None or constant(source) is not None or array.dtype.kind != "f":
        return None
    shape = source.shape
    if shape is None or array.ndim > len(shape) or not array.size or (op_type == "Div" and index == 0):
        return None
    wide = array.astype(np.float64).reshape((1,) * (len(shape) - array.ndim) + array.shape)
    if any(size > 1 and size != shape[axis] for axis, size in enumerate(wide.shape)):
        return None  # it would make the tensor larger
    if (found := _along_one_axis(wide)) is None:
        return None
    number, axis = found
    if not np.isfinite(number).all() or (op_type == "Div" and not number.all()):
        return None
    scale, shift = np.ones_like(number), np.zeros_like(number)
    if op_type in ("Mul", "Div"):
        scale = number if op_type == "Mul" else 1 / number
    elif op_type == "Add":
        shift = number
    else:
        scale, shift = (scale, -number) if index == 1 else (-scale, number)
    return _Step(node=node, scale=scale, shift=shift, axis=axis)


def _along_one_axis(wide: np.ndarray) -> tuple[np.ndarray, int | None] | None:
    """(C,) and its axis, one number and None, or None where it varies along several axes."""
    for axis in range(wide.ndim):
        if sum(size > 1 for size in wide.shape) > 1 and (wide == wide.take([0], axis)).all():
            wide = wide.take([0], axis)
    axes = [axis for axis, size in enumerate(wide.shape) if size > 1]
    return None if len(axes) > 1 else (np.ravel(wide), axes[0] if axes else None)


def replace_chain(chain: Chain) -> None:
    """Put a BatchNormalization in a chain's place, named after its first op."""
    first, last, source = chain.steps[0].node, chain.steps[-1].node, chain.source
    graph = first.graph
    assert isinstance(graph, ir.Graph)
    channels = max(step.scale.size for step in chain.steps)
    scale, shift = np.ones(channels), np.zeros(channels)
    for step in chain.steps:
        scale, shift = step.scale * scale, step.scale * shift + step.shift
    # In float64, whatever the tensor's dtype: they go into weights, which are rounded once.
    arrays = {"γ": scale, "β": shift, "μ": np.zeros(channels), "σ²": np.ones(channels)}
    values = [add_initializer(graph, f"{first.name}.{name}", array) for name, array in arrays.items()]
    attributes = {"epsilon": 0.0, AXIS: chain.axis}
    norm = ir.node("BatchNormalization", [source, *values], attributes, name=first.name)
    output, old = norm.outputs[0], last.outputs[0]
    name, output.shape, output.type = old.name, old.shape, old.type
    graph.insert_after(last, norm)
    ir.convenience.replace_all_uses_with(old, output, replace_graph_outputs=True)
    graph.remove([step.node for step in reversed(chain.steps)], safe=True)
    output.name = name
