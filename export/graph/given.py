"""Sizes and values of a graph's inputs, as the user gives them.

In: a graph and a shape for some inputs.  Out: a copy in which the given sizes are numbers, and so are all
that follow from them; and a range for each size that stays open.

    x=3,224,224      x=N,3,48,32..640/32      H=224..640/32

In: a graph and a number for some inputs, sr=16000.  Out: a copy in which these inputs are constants.

A name stands for one size wherever it is: "H" of one input is "H" of every other.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from export.errors import SourceError
from export.graph.sizes import sizes_of
from export.graph.targets import infer_through_targets
from service.contract.sizes import SizeRange, Sizes

Given = int | SizeRange
Shapes = Mapping[str, tuple[Given | str, ...]]
"""A shape by the name of its input, with the rows or without; "" where the graph has one input only.

A name in a shape is that of the file's own open size.  One size alone may stand by the name of an open size.
"""


@dataclass(kw_only=True)
class _Binding:
    """What is given so far for each open size, by its name."""

    bound: dict[str, Given] = field(default_factory=dict)
    rows: set[str] = field(default_factory=set)
    """Names that are given where they are the number of rows too, as V of a V × V matrix: no rows there."""

    def bind(self, name: str, given: Given, where: str) -> None:
        if (known := self.bound.setdefault(name, given)) != given:
            raise SourceError(f"--input-shape: '{name}' of '{where}' is {given}, elsewhere {known}")


def with_sizes(
    model: ir.Model, shapes: Shapes, *, keep_stated: bool = False
) -> tuple[ir.Model, dict[str, SizeRange]]:
    """A copy with these sizes of inputs, and the ranges; the number of rows stays open.

    Nothing is inferred: `export.graph.prepare` does that.  What the file states of other tensors' sizes may
    contradict those that are given: it goes, unless it is to be kept.  Raises SourceError where sizes do not
    fit.
    """
    if not shapes:
        return model, {}
    model = model.clone()
    inputs = {value.name or "": value for value in _inputs(model)}
    binding = _Binding()
    for name, shape in shapes.items():
        if name not in inputs and len(shape) == 1 and name in (*_open_names(model), *_rows_names(model)):
            binding.bind(name, _number_or_range(shape[0], name), name)
            binding.rows.add(name)
        else:
            _bind_input(_input_named(model, inputs, name), shape, binding)
    ranges = {name: given for name, given in binding.bound.items() if isinstance(given, SizeRange)}
    numbers = {name: given for name, given in binding.bound.items() if isinstance(given, int)}
    if taken := binding.rows.intersection(ranges, _rows_names(model)):
        name = min(taken)
        raise SourceError(
            f"--input-shape: '{name}' is also the first size of an input, its rows: give it one number, "
            f"{name}={ranges[name].minimum}"
        )
    opened = [name for name in _open_names(model) if ranges and name not in numbers]
    if numbers.keys() & binding.rows & set(_rows_names(model)):
        # The first size of an input is fixed, so the graph has no open number of rows.  Every other open
        # size must be given too: one that is not would be taken for the number of rows.
        opened = [name for name in (*_open_names(model), *_rows_names(model)) if name not in numbers]
    _bind_shapes(model, numbers, numbers.keys() & binding.rows)
    if not keep_stated:
        _forget_sizes(model)
    if missing := [name for name in opened if name not in ranges]:
        raise SourceError(f"--input-shape: no size and no range is given for '{missing[0]}'")
    return model, ranges


def with_values(model: ir.Model, values: Mapping[str, float]) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """A copy in which these inputs are constants, in each place the same number; and their arrays.

    Open sizes become 1.  Raises SourceError where there is no such input, or where its type cannot hold it.
    """
    if not values:
        return model, {}
    model, arrays = model.clone(), dict[str, np.ndarray]()
    inputs = {value.name or "": value for value in _inputs(model)}
    for name, number in values.items():
        if name not in inputs or len(inputs) == len(values):
            found = ", ".join(f"'{known}'" for known in inputs)
            raise SourceError(f"--input-value {name}: expected some, not all, of the inputs {found}")
        value = inputs[name]
        sizes = sizes_of(value) if value.shape is not None else []
        dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
        array = np.full([size if isinstance(size, int) else 1 for size in sizes], number)
        with np.errstate(over="ignore", invalid="ignore"):
            arrays[name] = array.astype(dtype)
        if dtype.kind not in "fiub" or (dtype.kind != "f" and (arrays[name] != array).any()):
            raise SourceError(f"--input-value: '{name}' is {value.dtype}, which does not hold {number:g}")
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(arrays[name], name=name)
        value.shape = ir.Shape(arrays[name].shape)
        model.graph.register_initializer(value)
    return model, arrays


def at_sizes(model: ir.Model, sizes: Sizes) -> ir.Model:
    """A copy with numbers for these open sizes, and for all that follow from them."""
    model = model.clone()
    _bind_shapes(model, sizes)
    _forget_sizes(model)
    infer_through_targets(model)
    return model


def _bind_input(value: ir.Value, shape: tuple[Given | str, ...], binding: _Binding) -> None:
    if value.shape is None:  # the file does not say its rank: one more than what is given, for the rows
        value.shape = ir.Shape([None] * (1 + len(shape)))
    name, found = value.name or "", list(sizes_of(value))
    if len(shape) not in (len(found) - 1, len(found)):
        raise SourceError(f"--input-shape gives '{name}' {len(shape)} sizes, its shape is {value.shape}")
    if len(shape) == len(found) and isinstance(shape[0], SizeRange):
        raise SourceError(f"--input-shape: the rows of '{name}' need no range: any number of them is served")
    for axis, wanted in enumerate(shape, len(found) - len(shape)):
        if axis == 0:
            continue
        own = found[axis]
        if isinstance(wanted, str) or isinstance(own, int):
            if wanted != own:
                raise SourceError(
                    f"--input-shape: axis {axis} of '{name}' is {own} in the file, got {wanted}"
                )
        else:
            if own is None:
                own = found[axis] = f"{name}_{axis}"
            binding.bind(own, wanted, name)
            if len(shape) == len(found) and (own, wanted) == (found[0], shape[0]):
                binding.rows.add(own)
    value.shape = ir.Shape(found)


def _bind_shapes(model: ir.Model, numbers: Sizes, also_rows: Set[str] = frozenset()) -> None:
    """Write these numbers for the names, and in place of the rows only `also_rows`: others stay open."""
    for value in _inputs(model):
        if value.shape:
            sizes = [
                numbers.get(size, size) if isinstance(size, str) and (axis > 0 or size in also_rows) else size
                for axis, size in enumerate(sizes_of(value))
            ]
            value.shape = ir.Shape(sizes)


def _rows_of(value: ir.Value) -> str | None:
    """The name of its open number of rows."""
    rows = sizes_of(value)[0] if value.shape else None
    return rows if isinstance(rows, str) else None


def _rows_names(model: ir.Model) -> list[str]:
    """The names of the inputs' open numbers of rows; of a graph's nodes, say, which are no rows at all."""
    return [name for value in _inputs(model) if (name := _rows_of(value)) is not None]


def _inputs(model: ir.Model) -> list[ir.Value]:
    """Without weights, which early files (IR version 3) list among them."""
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _open_names(model: ir.Model) -> list[str]:
    """The names of the open sizes of the inputs, but for the rows."""
    shapes = [sizes_of(value)[1:] for value in _inputs(model) if value.shape is not None]
    return list(dict.fromkeys(size for shape in shapes for size in shape if isinstance(size, str)))


def _input_named(model: ir.Model, inputs: Mapping[str, ir.Value], name: str) -> ir.Value:
    if name in inputs:
        return inputs[name]
    if name == "" and len(inputs) == 1:
        return next(iter(inputs.values()))
    found = ", ".join(f"'{known}'" for known in inputs)
    if name == "":
        raise SourceError(f"--input-shape must name its input, NAME=C,H,W: the inputs are {found}")
    opened = ", ".join(f"'{known}'" for known in _open_names(model)) or "none"
    raise SourceError(
        f"--input-shape: there is no input '{name}', the inputs are {found}, their open sizes {opened}"
    )


def _number_or_range(given: Given | str, name: str) -> Given:
    if isinstance(given, str):
        raise SourceError(f"--input-shape: '{name}' must be a number or a range, got {given}")
    return given


def _forget_sizes(model: ir.Model) -> None:
    """Forget what may follow from open sizes; only the number of rows of an output is kept."""
    for node in model.graph:
        for output in node.outputs:
            if output.is_graph_output() and output.shape:
                output.shape = ir.Shape([output.shape[0], *[None] * (len(output.shape) - 1)])
            elif not output.is_graph_output():
                output.shape = None
