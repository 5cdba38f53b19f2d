"""Write a Reshape's target as numbers where the graph computes it from shapes.

    Shape(p) → Slice [0:1] → Concat [−1] → Reshape(p, ·)    is    Reshape(p, [0, −1])

Exporters write the first for a flatten of an open number of rows.  Shape inference gives up at some of them,
and after a Reshape of unknown rank nothing is known of any tensor.  One size may be of any computation: it is
what the number of elements leaves, and written −1.  Where the target has a −1 besides, the sizes may tell it:

    p of (N, 5, 4)      Reshape(p, [N · 5, −1])    is    Reshape(p, [−1, 4])

Other numbers that are computed from shapes are told as well, as the places that an unfold gathers:

    x of (N, 8, 6, 6)   Range(0, Gather(Shape(x), 2) − 2)    is    Range(0, 4)
"""

import numpy as np
import onnx_ir as ir

from export.graph.edit import add_initializer, constant, onnx_op
from export.graph.elements import Element, elements
from export.graph.ranks import infer_ranks
from export.graph.sizes import Product, Products, Size, as_size, infer_sizes, rest, sizes_of

_MADE_UP = "unk__"


def infer_through_targets(model: ir.Model) -> dict[ir.Graph, Products]:
    """Infer the shape of every tensor, in place; each target or rank that is found may lead to the next.

    Returns what the names in each graph stand for.
    """
    _forget_made_up(model)
    known = infer_sizes(model)
    while _write_targets(model, known) or infer_ranks(model):
        _forget_made_up(model)
        known = infer_sizes(model)
    return known


def write_numbers(model: ir.Model, known: dict[ir.Graph, Products]) -> bool:
    """Whether integers that the graph computes from sizes were told, and are written as constants."""
    written = [_write_number(node, graph, known[graph]) for graph in model.graphs() for node in list(graph)]
    return any(written)


def _write_number(node: ir.Node, graph: ir.Graph, known: Products) -> bool:
    """Whether all that the node makes is told; numbers that were cast to another type are left alone."""
    output = node.outputs[0]
    if output.dtype != ir.DataType.INT64 or output.shape is None or len(output.shape) > 1:
        return False
    found = elements(output, known)
    if found is None or not all(isinstance(number, int) for number in found):
        return False
    numbers = np.array(found, dtype=np.int64).reshape(-1 if len(output.shape) else ())
    written = add_initializer(graph, f"{output.name}_number", numbers)
    ir.convenience.replace_all_uses_with(output, written)
    return True


def _forget_made_up(model: ir.Model) -> None:
    """Drop the names that inference made up: it keeps them, where what is known by now leads to one name."""
    for node in model.graph.all_nodes():
        for output in node.outputs:
            if output.shape is not None and not output.shape.is_static():
                sizes = [None if _is_unknown(size) else size for size in sizes_of(output)]
                output.shape = ir.Shape(sizes)


def _write_targets(model: ir.Model, known: dict[ir.Graph, Products]) -> bool:
    """Whether there was one to write."""
    written = [
        _write_target(node, graph, known[graph]) or _state_expanded(node, known[graph])
        for graph in model.graphs()
        for node in list(graph)
    ]
    return any(written)


def _write_target(node: ir.Node, graph: ir.Graph, known: Products) -> bool:
    """Whether the node is a Reshape whose target is made constant: 0 is the size that its input has there."""
    if onnx_op(node) != "Reshape" or constant(node.inputs[1]) is not None or node.inputs[0] is None:
        return False
    wanted, source = elements(node.inputs[1], known), node.inputs[0]
    if wanted is None or (0 in wanted and node.attributes.get_int("allowzero", 0) == 1):
        return False
    found = sizes_of(source) if source.shape is not None else []
    target = _numbers(wanted, found)
    if _count_open(target) > 1:
        wanted = _without_open(wanted, found, known)
        target = _numbers(wanted, found)
    if _count_open(target) > 1:
        return _state_sizes(node.outputs[0], wanted)
    node.attributes.pop("allowzero", None)
    numbers = np.array([-1 if size is None else size for size in target], dtype=np.int64)
    node.replace_input_with(1, add_initializer(graph, f"{node.name or node.outputs[0].name}_target", numbers))
    return True


def _state_expanded(node: ir.Node, known: Products) -> bool:
    """Whether the node is an Expand whose output gets sizes that it is asked for, by name too."""
    if onnx_op(node) != "Expand":
        return False
    source, output, wanted = node.inputs[0], node.outputs[0], elements(node.inputs[1], known)
    if source is None or source.shape is None or wanted is None or len(wanted) < len(source.shape):
        return False
    own = [*[1] * (len(wanted) - len(source.shape)), *sizes_of(source)]
    sizes = [own_size if size == 1 else size for size, own_size in zip(wanted, own, strict=True)]
    told = [None if isinstance(size, Product) else size for size in sizes]
    before = sizes_of(output) if output.shape is not None else [None] * len(told)
    now = [new if _is_unknown(old) else old for new, old in zip(told, before, strict=True)]
    is_news = any(_is_unknown(old) and not _is_unknown(new) for new, old in zip(now, before, strict=True))
    if is_news:
        output.shape = ir.Shape(now)
    return is_news


def _is_unknown(size: Size) -> bool:
    return size is None or str(size).startswith(_MADE_UP)


def _numbers(wanted: list[Element], found: list[Size]) -> list[int | None]:
    """The target's numbers: 0 where the input has the same size at that place, None where it is unknown."""
    target: list[int | None] = []
    for axis, size in enumerate(wanted):
        is_kept = size is not None and found[axis : axis + 1] == [size]
        target.append(size if isinstance(size, int) else 0 if is_kept else None)
    return target


def _count_open(target: list[int | None]) -> int:
    return target.count(None) + target.count(-1)


def _without_open(wanted: list[Element], found: list[Size], known: Products) -> list[Element]:
    """The −1 of a target as the size that it is, where the other sizes leave a number or a name."""
    kept = [*found, *[None] * len(wanted)]
    others = [kept[axis] if size == 0 else size for axis, size in enumerate(wanted) if size != -1]
    left = rest(found, others, known)
    if left is None or (size := as_size(left)) is None:
        return wanted
    return [size if one == -1 else one for one in wanted]


def _state_sizes(output: ir.Value, wanted: list[Element]) -> bool:
    """Give the output its rank, and the sizes that are numbers or names; whether it had none."""
    if output.shape is not None:
        return False
    output.shape = ir.Shape(
        [None if size in (0, -1) or isinstance(size, Product) else size for size in wanted]
    )
    return True
