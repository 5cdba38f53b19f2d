"""The integers that a graph computes from shapes, as a Reshape's target is.

Shape(p) → Gather 0 → Mul 5 → Concat [−1]    of p (N, 5, 4)    is    [5 · N, −1]
"""

import itertools
from collections.abc import Mapping

import onnx_ir as ir

from export.graph.edit import constant, onnx_op
from export.graph.sizes import Product, Size, as_size, product_of, rest, sizes_of

Element = Size | Product

_SAME = ("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape")
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


def elements(value: ir.Value | None, known: Mapping[str, Product]) -> list[Element] | None:
    """The integers of a vector or a single one: a number, the size that it is, or None each.

    None instead of a list where it is not known how many there are.  `known` says what names stand for.
    """
    if value is None:
        return None
    found = _traced(value, known)
    if found is None and value.shape is not None and len(value.shape) <= 1:
        size = value.shape[0] if value.shape else 1
        return [None] * size if isinstance(size, int) else None
    return found


def _traced(value: ir.Value, known: Mapping[str, Product]) -> list[Element] | None:
    if (array := constant(value)) is not None:
        is_vector = array.ndim <= 1 and array.dtype.kind in "iu"
        return [int(number) for number in array.ravel()] if is_vector else None
    node = value.producer()
    if node is None:
        return None
    op_type = onnx_op(node)
    if op_type == "Shape":
        source = node.inputs[0]
        if source is None or source.shape is None:
            return None
        sizes = list[Element](sizes_of(source))
        return sizes[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(sizes))]
    if op_type in _ARITHMETIC:
        first, second = (elements(source, known) for source in node.inputs)
        if first is None or second is None or len(first) != len(second):
            return None
        pairs = zip(first, second, strict=True)
        return [_computed(op_type, one, other, known) for one, other in pairs]
    if op_type in _SAME:
        return elements(node.inputs[0], known)
    if op_type not in ("Concat", "Gather", "Slice"):
        return None
    first, *others = (elements(source, known) for source in node.inputs)
    if first is None or None in others:
        return None
    bounds = [other or [] for other in others]
    if op_type == "Slice" and not bounds:  # before opset 10, its bounds are attributes
        bounds = [list(node.attributes.get_ints(bound, [])) for bound in ("starts", "ends")]
    if op_type == "Concat":
        return [*first, *itertools.chain(*bounds)]
    places = [number for numbers in bounds for number in numbers if isinstance(number, int)]
    if len(places) < sum(map(len, bounds)):
        return None  # a place that is itself computed
    if op_type == "Gather":
        return [first[place] for place in places]
    if len(places) not in (2, 3, 4):
        return None
    return first[slice(places[0], places[1], places[3] if len(places) > 3 else 1)]


def _computed(op_type: str, one: Element, other: Element, known: Mapping[str, Product]) -> Element:
    """What is known of one of the four operations; a quotient only where nothing is left over."""
    if op_type in ("Mul", "Div"):
        made = product_of([one, other], known) if op_type == "Mul" else rest([one], [other], known)
        size = None if made is None else as_size(made)
        return made if size is None else size
    if not isinstance(one, int) or not isinstance(other, int):
        return None
    return one + other if op_type == "Add" else one - other
