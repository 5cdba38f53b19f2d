"""Complete the sizes of tensors that shape inference leaves open at a Reshape.

    (N, 6, 6, 4) reshaped by (−1, 144)  is  (N, 144)        (N, 4, 6, 6) reshaped by (N, −1)  is  (N, 144)

Both sides have as many numbers.  So where one size of the output is open, it is what is left of the product
of the input's sizes when the output's other sizes are divided out: a number, or the name of one size.
"""

from collections import Counter, defaultdict

import onnx_ir as ir
import onnx_ir.passes.common as passes

from export.graph.edit import onnx_op

Size = int | str | None
Named = defaultdict[str, list[ir.Value]]


def sizes_of(value: ir.Value) -> list[Size]:
    """The sizes of a tensor of known rank: numbers, or names of unknown ones, None without a name."""
    assert value.shape is not None
    return [size if isinstance(size, int) else size.value for size in value.shape]


def infer_sizes(model: ir.Model) -> None:
    """Infer the shape of every tensor, in place."""
    _infer_shapes(model)
    for graph in model.graphs():
        given = {size for value in graph.inputs if value.shape is not None for size in sizes_of(value)}
        named = _by_name(graph)
        for node in list(graph):
            if onnx_op(node) == "Reshape":
                _complete(node, named, given)


def _infer_shapes(model: ir.Model) -> None:
    """ONNX (1.23) infers no shape after a GroupNormalization, so an InstanceNormalization stands for it.

    Both have the shape of what they read.
    """
    nodes = [node for graph in model.graphs() for node in graph if onnx_op(node) == "GroupNormalization"]
    for node in nodes:
        node.op_type = "InstanceNormalization"
    try:
        passes.ShapeInferencePass()(model)
    finally:
        for node in nodes:
            node.op_type = "GroupNormalization"


def _by_name(graph: ir.Graph) -> Named:
    """The tensors that have a size of each name."""
    named: Named = defaultdict(list)
    for node in graph:
        for output in node.outputs:
            for size in set(sizes_of(output)) if output.shape is not None else ():
                if isinstance(size, str):
                    named[size].append(output)
    return named


def _complete(reshape: ir.Node, named: Named, given: set[Size]) -> None:
    source, output = reshape.inputs[0], reshape.outputs[0]
    if source is None or source.shape is None or output.shape is None:
        return
    before, after = sizes_of(source), sizes_of(output)
    # A name that the input does not have, and no input of the graph, was made up by shape inference.
    unknown = [index for index, size in enumerate(after) if not isinstance(size, int) and size not in before]
    if len(unknown) != 1 or after[unknown[0]] in given - {None}:
        return
    name = after.pop(unknown[0])
    if (size := _rest(before, after)) is None:
        return
    after.insert(unknown[0], size)
    output.shape = ir.Shape(after)
    if isinstance(name, str):
        _rename(named, name, size)


def _rest(before: list[Size], after: list[Size]) -> Size:
    """The one size that makes the products of both sides equal; None if it is neither a number nor a name."""
    if None in before or None in after or 0 in before or 0 in after:
        return None
    names = Counter(size for size in before if isinstance(size, str))
    others = Counter(size for size in after if isinstance(size, str))
    if others - names:
        return None
    names -= others
    whole, part = _product(before), _product(after)
    if whole % part or names.total() > 1 or (names and whole != part):
        return None
    return next(iter(names)) if names else whole // part


def _product(sizes: list[Size]) -> int:
    product = 1
    for size in sizes:
        product *= size if isinstance(size, int) else 1
    return product


def _rename(named: Named, name: str, size: Size) -> None:
    """A name stands for one size wherever it is."""
    renamed = named.pop(name, [])
    for output in renamed:
        output.shape = ir.Shape([size if old == name else old for old in sizes_of(output)])
    if isinstance(size, str):
        named[size] += renamed
