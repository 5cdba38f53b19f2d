"""Say where a BatchNorm went: the nearest ops, before it and after it, whose weights changed.

In: the BatchNorm, and the ops that are written.  Out: words, and the prices that are paid on the way.
"""

from collections.abc import Callable, Container, Iterator, Mapping

import onnx_ir as ir

from export.fold.gauges.rules import LINEAR, NORMALIZING
from export.fold.gauges.system import Price, has_constant

MAX_NAMED = 3
_ENDS = LINEAR | {"BatchNormalization", *NORMALIZING}


def where(
    node: ir.Node, written: set[ir.Node], paid: Mapping[ir.Node, Price], left: Container[ir.Value]
) -> tuple[str, set[Price]]:
    """Where it went in words, and the prices that were paid on the way.

    `written` are the ops whose weights change, `paid` what was bought at which op, `left` the tensors whose
    bias is the constant after them.
    """
    before, after = list(_walk(node, _producers)), _after(node, left)
    places = [
        f"{_names(ops)} {side}"
        for side, found in (("before it", before), ("after it", after))
        if (ops := [op for op in found if op in written])
    ]
    how = f"into {' and '.join(places)}" if places else "away: it changes nothing"
    prices = [(op, paid[op]) for op in dict.fromkeys((*before, *after)) if op in paid]
    if prices:
        how += (
            f"; the price: {', '.join(f'{price.value} at {_name(op)}' for op, price in prices[:MAX_NAMED])}"
        )
    return how, {price for _, price in prices}


def reach(node: ir.Node, left: Container[ir.Value]) -> set[ir.Node]:
    """Every op that a BatchNorm's scale and shift may go into, up to the nearest linear ones."""
    return {*_walk(node, _producers), *_after(node, left)}


def _after(node: ir.Node, left: Container[ir.Value]) -> list[ir.Node]:
    """Every op after it up to the nearest linear ones, and the constants that are their biases."""
    found = list(_walk(node, _consumers))
    biases = [reader for op in found if op.outputs[0] in left for reader in op.outputs[0].consumers()]
    return list(dict.fromkeys([*found, *biases]))


def _walk(start: ir.Node, step: Callable[[ir.Node], Iterator[ir.Node]]) -> Iterator[ir.Node]:
    """Every op up to and including the nearest linear ones."""
    seen, pending = {start}, list(step(start))
    while pending:
        node = pending.pop(0)
        if node in seen:
            continue
        seen.add(node)
        yield node
        if node.op_type not in _ENDS or _is_product(node):
            pending += step(node)


def _is_product(node: ir.Node) -> bool:
    """A MatMul of two computed tensors has no weights: scales pass through it."""
    return node.op_type == "MatMul" and not has_constant(node, 0) and not has_constant(node, 1)


def _producers(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.inputs:
        if value is not None and (producer := value.producer()) is not None:
            yield producer


def _consumers(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.outputs:
        yield from value.consumers()


def _names(ops: list[ir.Node]) -> str:
    more = f" and {len(ops) - MAX_NAMED} more" if len(ops) > MAX_NAMED else ""
    return ", ".join(map(_name, ops[:MAX_NAMED])) + more


def _name(op: ir.Node) -> str:
    return f"{op.op_type} '{op.name}'"
