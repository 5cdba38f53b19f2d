"""Write a Reshape's target as numbers where the graph computes it from shapes.

    Shape(p) → Slice [0:1] → Concat [−1] → Reshape(p, ·)    is    Reshape(p, [0, −1])

Exporters write the first for a flatten of an open number of rows.  Shape inference gives up at some of them,
and after a Reshape of unknown rank nothing is known of any tensor.  One size may be of any computation: it is
what the number of elements leaves, and written −1.
"""

import itertools

import numpy as np
import onnx_ir as ir

from export.graph.edit import add_initializer, constant, onnx_op
from export.graph.ranks import infer_ranks
from export.graph.sizes import Size, infer_sizes, sizes_of


def infer_through_targets(model: ir.Model) -> None:
    """Infer the shape of every tensor, in place; each target or rank that is found may lead to the next."""
    infer_sizes(model)
    while _write_targets(model) or infer_ranks(model):
        infer_sizes(model)


def _write_targets(model: ir.Model) -> bool:
    """Whether there was one to write."""
    written = [_write_target(node, graph) for graph in model.graphs() for node in list(graph)]
    return any(written)


def _write_target(node: ir.Node, graph: ir.Graph) -> bool:
    """Whether the node is a Reshape whose target is made constant: 0 is the size that its input has there."""
    if onnx_op(node) != "Reshape" or constant(node.inputs[1]) is not None or node.inputs[0] is None:
        return False
    wanted, source = _elements(node.inputs[1]), node.inputs[0]
    if wanted is None or (0 in wanted and node.attributes.get_int("allowzero", 0) == 1):
        return False
    found = sizes_of(source) if source.shape is not None else []
    target: list[int | None] = []
    for axis, size in enumerate(wanted):
        is_kept = size is not None and found[axis : axis + 1] == [size]
        target.append(size if isinstance(size, int) else 0 if is_kept else None)
    if target.count(None) + target.count(-1) > 1:
        return _state_sizes(node.outputs[0], wanted)
    node.attributes.pop("allowzero", None)
    numbers = np.array([-1 if size is None else size for size in target], dtype=np.int64)
    node.replace_input_with(1, add_initializer(graph, f"{node.name or node.outputs[0].name}_target", numbers))
    return True


def _state_sizes(output: ir.Value, wanted: list[Size]) -> bool:
    """Give the output its rank, and the sizes that are numbers or names; whether it had none."""
    if output.shape is not None:
        return False
    output.shape = ir.Shape([None if size in (0, -1) else size for size in wanted])
    return True


def _elements(value: ir.Value | None) -> list[Size] | None:
    """The integers of a vector or a single one: a number, the name of the size that it is, or None each.

    None instead of a list where it is not known how many there are.
    """
    if value is None:
        return None
    found = _traced_elements(value)
    if found is None and value.shape is not None and len(value.shape) <= 1:
        size = value.shape[0] if value.shape else 1
        return [None] * size if isinstance(size, int) else None
    return found


def _traced_elements(value: ir.Value) -> list[Size] | None:
    if (array := constant(value)) is not None:
        is_vector = array.ndim <= 1 and array.dtype.kind in "iu"
        return [int(number) for number in array.ravel()] if is_vector else None
    node = value.producer()
    if node is None:
        return None
    if onnx_op(node) == "Shape":
        source = node.inputs[0]
        if source is None or source.shape is None:
            return None
        sizes = sizes_of(source)
        return sizes[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(sizes))]
    if onnx_op(node) == "Mul":
        return _products(*map(_elements, node.inputs))
    if onnx_op(node) not in ("Identity", "Cast", "Squeeze", "Unsqueeze", "Concat", "Gather", "Slice"):
        return None
    first, *others = (_elements(source) for source in node.inputs)
    if onnx_op(node) in ("Identity", "Cast", "Squeeze", "Unsqueeze"):
        return first
    if first is None or None in others:
        return None
    rest = [other or [] for other in others]
    if onnx_op(node) == "Slice" and not rest:  # before opset 10, its bounds are attributes
        rest = [list(node.attributes.get_ints(bound, [])) for bound in ("starts", "ends")]
    if onnx_op(node) == "Concat":
        return [*first, *itertools.chain(*rest)]
    places = [number for numbers in rest for number in numbers if isinstance(number, int)]
    if len(places) < sum(map(len, rest)):
        return None  # a place that is itself computed
    if onnx_op(node) == "Gather":
        return [first[place] for place in places]
    if len(places) not in (2, 3, 4):
        return None
    return first[slice(places[0], places[1], places[3] if len(places) > 3 else 1)]


def _products(first: list[Size] | None, second: list[Size] | None) -> list[Size] | None:
    """The numbers that are known of a product, one by one."""
    if first is None or second is None or len(first) != len(second):
        return None
    pairs = zip(first, second, strict=True)
    return [one * other if isinstance(one, int) and isinstance(other, int) else None for one, other in pairs]
