"""Fix open sizes of a graph's inputs, as the user gives them.

In: a graph and a shape for some inputs.  Out: a copy in which these sizes are numbers, and so are all that
follow from them.  A name stands for one size wherever it is: "H" of one input is "H" of every other.
"""

from collections.abc import Mapping

import onnx_ir as ir

from export.errors import SourceError
from export.graph.sizes import sizes_of
from export.graph.targets import infer_through_targets

Shapes = Mapping[str, tuple[int, ...]]
"""A shape by the name of its input; "" where the graph has one input only.  With the rows, or without."""


def with_sizes(model: ir.Model, shapes: Shapes) -> ir.Model:
    """A copy with these sizes; the number of rows stays open.  Raises SourceError where they do not fit."""
    if not shapes:
        return model
    model = model.clone()
    inputs = {value.name or "": value for value in model.graph.inputs}
    bound: dict[str, int] = {}
    for name, shape in shapes.items():
        value = _input_named(inputs, name)
        if value.shape is None:
            raise SourceError(f"input '{value.name}' has no rank: --input-shape cannot be compared with it")
        sizes = list(sizes_of(value))
        given = [sizes[0], *shape] if len(shape) == len(sizes) - 1 else [*shape]
        if len(given) != len(sizes):
            raise SourceError(
                f"--input-shape gives '{value.name}' {len(shape)} sizes, its shape is {value.shape}"
            )
        for axis, (found, wanted) in enumerate(zip(sizes, given, strict=True)):
            if isinstance(found, int) and found != wanted:
                raise SourceError(
                    f"--input-shape: axis {axis} of '{value.name}' is {found} in the file, got {wanted}"
                )
            if isinstance(found, str) and axis > 0 and bound.setdefault(found, int(wanted or 0)) != wanted:
                raise SourceError(
                    f"--input-shape: '{found}' of '{value.name}' is {wanted}, elsewhere {bound[found]}"
                )
        value.shape = ir.Shape([sizes[0], *given[1:]])
    for value in model.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([bound.get(size, size) if isinstance(size, str) else size
                                    for size in sizes_of(value)])  # fmt: skip
    _infer_again(model)
    return model


def _input_named(inputs: Mapping[str, ir.Value], name: str) -> ir.Value:
    if name in inputs:
        return inputs[name]
    if name == "" and len(inputs) == 1:
        return next(iter(inputs.values()))
    found = ", ".join(f"'{known}'" for known in inputs)
    if name == "":
        raise SourceError(f"--input-shape must name its input, NAME=C,H,W: the inputs are {found}")
    raise SourceError(f"--input-shape: there is no input '{name}', the inputs are {found}")


def _infer_again(model: ir.Model) -> None:
    """Forget what was inferred from open sizes; only the number of rows of an output is kept."""
    for node in model.graph:
        for output in node.outputs:
            if output.is_graph_output() and output.shape:
                output.shape = ir.Shape([output.shape[0], *[None] * (len(output.shape) - 1)])
            elif not output.is_graph_output():
                output.shape = None
    infer_through_targets(model)
