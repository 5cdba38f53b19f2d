"""Complete the sizes of tensors that shape inference leaves open at a Reshape.

    (N, 6, 6, 4) reshaped by (−1, 144)  is  (N, 144)        (N, 4, 6, 6) reshaped by (N, −1)  is  (N, 144)

Both sides have as many numbers.  So where one size of the output is open, it is what is left of the product
of the input's sizes when the output's other sizes are divided out: a number, the name of one size, or a
product of such, 5·N: that has no place in a shape, so its name is a made-up one, and what it is is noted.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from export.graph.edit import onnx_op
from export.graph.infer import infer

Size = int | str | None
Named = defaultdict[str, list[ir.Value]]


@dataclass(frozen=True, kw_only=True)
class Product:
    """A size that is a number times sizes that have only names, in order."""

    number: int
    names: tuple[str, ...]


Products = dict[str, Product]
"""What a name of one size stands for, where that is a product."""


def sizes_of(value: ir.Value) -> list[Size]:
    """The sizes of a tensor of known rank: numbers, or names of unknown ones, None without a name."""
    assert value.shape is not None
    return [size if isinstance(size, int) else size.value for size in value.shape]


def infer_sizes(model: ir.Model) -> dict[ir.Graph, Products]:
    """Infer the shape of every tensor, in place; returns what the names in each graph stand for."""
    infer(model)
    known: dict[ir.Graph, Products] = {}
    for graph in model.graphs():
        known[graph] = {}
        given = {size for value in graph.inputs if value.shape is not None for size in sizes_of(value)}
        named = _by_name(graph)
        for node in list(graph):
            if onnx_op(node) == "Reshape":
                _complete(node, named, given, known[graph])
    return known


def _by_name(graph: ir.Graph) -> Named:
    """The tensors that have a size of each name."""
    named: Named = defaultdict(list)
    for node in graph:
        for output in node.outputs:
            for size in set(sizes_of(output)) if output.shape is not None else ():
                if isinstance(size, str):
                    named[size].append(output)
    return named


def _complete(reshape: ir.Node, named: Named, given: set[Size], known: Products) -> None:
    source, output = reshape.inputs[0], reshape.outputs[0]
    if source is None or source.shape is None or output.shape is None:
        return
    before, after = sizes_of(source), sizes_of(output)
    # A name that the input does not have, and no input of the graph, was made up by shape inference.
    unknown = [index for index, size in enumerate(after) if not isinstance(size, int) and size not in before]
    if len(unknown) != 1 or after[unknown[0]] in given - {None}:
        return
    name = after.pop(unknown[0])
    if (left := rest(before, after, known)) is None:
        return
    size = as_size(left) or next((own for own, product in known.items() if product == left), None)
    if size is None:
        if isinstance(name, str):
            known[name] = left
        return
    after.insert(unknown[0], size)
    output.shape = ir.Shape(after)
    if isinstance(name, str):
        _rename(named, name, size)


def rest(
    before: Iterable[Size | Product], after: Iterable[Size | Product], known: Mapping[str, Product]
) -> Product | None:
    """The one size that makes the products of both sides equal; None if that cannot be told."""
    whole, part = product_of(before, known), product_of(after, known)
    if whole is None or part is None or whole.number % part.number:
        return None
    names, others = Counter(whole.names), Counter(part.names)
    if others - names:
        return None
    return Product(number=whole.number // part.number, names=tuple(sorted((names - others).elements())))


def product_of(sizes: Iterable[Size | Product], known: Mapping[str, Product]) -> Product | None:
    """All of them multiplied; None where one is not known, or no size of a tensor that holds numbers."""
    number, names = 1, list[str]()
    for size in sizes:
        if size is None or (isinstance(size, int) and size <= 0):
            return None
        if isinstance(size, int):
            number *= size
            continue
        part = known.get(size, Product(number=1, names=(size,))) if isinstance(size, str) else size
        number *= part.number
        names += part.names
    return Product(number=number, names=tuple(sorted(names)))


def as_size(product: Product) -> Size:
    """A number or one name; None if it is neither."""
    if not product.names:
        return product.number
    return product.names[0] if product.number == 1 and len(product.names) == 1 else None


def _rename(named: Named, name: str, size: Size) -> None:
    """A name stands for one size wherever it is."""
    renamed = named.pop(name, [])
    for output in renamed:
        output.shape = ir.Shape([size if old == name else old for old in sizes_of(output)])
    if isinstance(size, str):
        named[size] += renamed
