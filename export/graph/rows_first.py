"""Put the rows of every input and output first, where a file has them elsewhere or not at all.

In: a graph, and on which axis each tensor has its rows.  Out: a copy whose tensors have them first.

    state (2, N, 128), axis 1       is served as (N, 2, 128)       Transpose
    sr (), no axis                  is served as (1), one row      Squeeze, or Unsqueeze of an output

Recurrent nets have layers or time first, and a number or a whole table may be what one call is given.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from export.graph.edit import add_initializer

FIRST_AXES_AS_INPUT = 13

Axes = Mapping[str, int | None]
"""The axis of the rows by a tensor's name; None where it has none, and one call is one row."""


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """How the rows that are served become what a file takes, and its answers rows.

    Args:
        inputs: the axes of rows in the file; inputs that are not named have them first.
        outputs: likewise.
        values: inputs that clients do not send, because they have one value always.
        texts: outputs that are left out.
    """

    inputs: Axes = field(default_factory=dict)
    outputs: Axes = field(default_factory=dict)
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    texts: tuple[str, ...] = ()

    def to_file(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows first, by name → what the file takes."""
        fed = {name: _moved_back(array, self.inputs.get(name, 0)) for name, array in rows.items()}
        return {**fed, **self.values}

    def from_file(self, answers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the file answers → rows first, by name."""
        return {
            name: rows_first(answer, self.outputs.get(name, 0))
            for name, answer in answers.items()
            if name not in self.texts
        }

    def in_words(self) -> list[str]:
        """What a client should know: a phrase for each tensor that is served otherwise than in the file."""
        moved = {**self.inputs, **self.outputs}
        return [
            *(f"'{name}' is always {array.ravel()[0]}" for name, array in self.values.items()),
            *(f"'{name}' has its rows first" for name, axis in moved.items() if axis),
            *(f"'{name}' is that of one row" for name, axis in moved.items() if axis is None),
            *(f"'{name}' is text, and left out" for name in self.texts),
        ]


def rows_first(array: np.ndarray, axis: int | None) -> np.ndarray:
    """The array with its rows, which are on `axis`, first; a number has none, and stays as it is."""
    if axis is None:
        return array[np.newaxis]
    return np.moveaxis(array, axis, 0) if axis else array


def _moved_back(array: np.ndarray, axis: int | None) -> np.ndarray:
    if axis is None:
        return array[0, ...]
    return np.moveaxis(array, 0, axis) if axis else array


def with_rows_first(model: ir.Model, inputs: Axes, outputs: Axes) -> ir.Model:
    """A copy whose named inputs and outputs have their rows first; the names stay."""
    model = model.clone()
    graph = model.graph
    for value in list(graph.inputs):
        if (axis := inputs.get(value.name or "", 0)) != 0:
            _move_input(graph, value, axis)
    for place, value in enumerate(list(graph.outputs)):
        if (axis := outputs.get(value.name or "", 0)) != 0:
            _move_output(graph, place, value, axis)
    return model


def _move_input(graph: ir.Graph, value: ir.Value, axis: int | None) -> None:
    node = _mover(graph, value, "Squeeze", axis, back=True)
    inner = node.outputs[0]
    inner.shape, inner.type, inner.name = value.shape, value.type, f"{value.name}_in_the_file"
    ir.convenience.replace_all_uses_with(value, inner, replace_graph_outputs=True)
    node.replace_input_with(0, value)
    value.shape = _shape_first(value.shape, axis)
    first = next(iter(graph), None)
    graph.insert_before(first, node) if first is not None else graph.append(node)


def _move_output(graph: ir.Graph, place: int, value: ir.Value, axis: int | None) -> None:
    node = _mover(graph, value, "Unsqueeze", axis, back=False)
    outer = node.outputs[0]
    outer.shape, outer.type = _shape_first(value.shape, axis), value.type
    outer.name, value.name = value.name, f"{value.name}_in_the_file"
    graph.append(node)
    graph.outputs[place] = outer


def _mover(graph: ir.Graph, value: ir.Value, kind: str, axis: int | None, *, back: bool) -> ir.Node:
    """A Transpose, or `kind` where there is no axis; `back` from rows first to the file's order."""
    name = f"{value.name}_{'from' if back else 'to'}_rows_first"
    if axis is not None:
        assert value.shape is not None
        order = [axis, *(place for place in range(len(value.shape)) if place != axis)]
        perm = [int(place) for place in (np.argsort(order) if back else order)]
        return ir.node("Transpose", [value], {"perm": perm}, name=name)
    if graph.opset_imports.get("", 0) < FIRST_AXES_AS_INPUT:
        return ir.node(kind, [value], {"axes": [0]}, name=name)
    return ir.node(kind, [value, add_initializer(graph, f"{name}_axes", np.array([0]))], name=name)


def _shape_first(shape: ir.Shape | None, axis: int | None) -> ir.Shape | None:
    if shape is None:
        return None
    sizes = list(shape)
    return ir.Shape([1, *sizes] if axis is None else [sizes[axis], *sizes[:axis], *sizes[axis + 1 :]])
