"""Trees of Adds: what they sum up, and how a term is taken out of one."""

import onnx_ir as ir

from export.graph.edit import constant, has_one_reader
from export.graph.moments import know, moments_of


def is_a(node: ir.Node, *op_types: str) -> bool:
    return node.op_type in op_types and node.domain in ("", "ai.onnx")


def adds_of(graph: ir.Graph) -> set[ir.Node]:
    """Its Adds of two computed tensors of one shape."""
    return {node for node in graph if is_a(node, "Add") and are_alike(node)}


def trees(graph: ir.Graph, adds: set[ir.Node]) -> list[ir.Node]:
    """The last Add of each tree."""
    return [node for node in graph if node in adds and not is_inner(node, adds)]


def are_alike(add: ir.Node) -> bool:
    """Two computed tensors of one known shape, whose rows may be symbolic; nothing is broadcast."""
    shapes = [value.shape for value in add.inputs if value and value.shape and constant(value) is None]
    if len(shapes) != 2 or len(shapes[0]) != len(shapes[1]):
        return False
    rows, *sizes = zip(*shapes, strict=True)
    is_one_kind = isinstance(rows[0], int) == isinstance(rows[1], int)
    known = [rows, *sizes] if isinstance(rows[0], int) else sizes
    return is_one_kind and all(isinstance(left, int) and left == right for left, right in known)


def is_inner(add: ir.Node, adds: set[ir.Node]) -> bool:
    return has_one_reader(add.outputs[0]) and add.outputs[0].consumers()[0] in adds


def terms(root: ir.Node, adds: set[ir.Node], seen: set[ir.Node] | None = None) -> list[ir.Value]:
    """The terms that a tree of Adds sums up, from left to right; `seen` takes its Adds.

    An Add whose sum another node reads too is itself a term: that sum must exist.
    """
    found: list[ir.Value] = []
    pending = [*reversed(root.inputs)]
    seen = set() if seen is None else seen
    seen.add(root)
    while pending:
        value = pending.pop()
        assert value is not None
        add = value.producer()
        if add is not None and add in adds and has_one_reader(value):
            seen.add(add)
            pending += reversed(add.inputs)
        else:
            found.append(value)
    return found


def drop(term: ir.Value, within: set[ir.Node], adds: set[ir.Node]) -> None:
    """Take a term out of the tree of Adds `within`: an Add goes too, and its other operand takes its place.

    Of the last Add of a tree it also takes the name, which may be that of the graph's output.  What made the
    term goes as well, if nothing reads it any more.
    """
    add, index = next((use.node, use.idx) for use in term.uses() if use.node in within)
    total, other = add.outputs[0], add.inputs[1 - index]
    assert add.graph is not None
    assert other is not None
    if not is_inner(add, adds):
        other.name, other.shape = total.name, total.shape or other.shape
        know(other, moments_of(total))
    ir.convenience.replace_all_uses_with(total, other, replace_graph_outputs=True)
    maker = term.producer()
    is_unread = maker is not None and has_one_reader(term) and term is not other
    add.graph.remove([add, maker] if is_unread and maker is not None else [add], safe=True)
