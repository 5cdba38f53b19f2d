"""Find where a file's inputs and outputs have their rows, where that is not the first axis of each.

In: a prepared graph, and rows if there are any.  Out: the graph with rows first, and its `Arrangement`.

    x (N, 1, 576), state (2, N, 128), sr ()   →  y (N, 1), state' (2, N, 128)

An input says by a size that it shares with the first one, or leaves open, or has of 1.  What an output has
is seen in two runs, of one row and of more.  Where no axis is of the rows, one call of the file is one row.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, product
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.compute.rows import read_rows, some_rows
from export.compute.runtime import load
from export.compute.texts import is_text, without_texts
from export.errors import ExportError, SourceError
from export.graph.file import serialize
from export.graph.prepare import with_symbolic_rows
from export.graph.rows_first import Arrangement, Axes, with_rows_first
from export.graph.sizes import Size, sizes_of
from export.sources.by_run import is_answered_alike
from service.contract.parity import Tensors
from service.contract.sizes import Sizes

MAX_TRIED = 8
PICTURES_RANK = 4


def arranged(
    model: ir.Model, values: Tensors, rows: Path | None, sizes: Sizes
) -> tuple[ir.Model, Arrangement]:
    """The graph whose rows come first, without outputs that are texts; the graph itself where it is so.

    Args:
        values: inputs that the graph no longer has, with their value in the file.
        rows: a file of rows, as they will be served.
        sizes: of sizes that stay open, for the rows of the runs.

    Raises SourceError where an input is one number, and no run shows that rows are answered.
    """
    texts = tuple(value.name or "" for value in model.graph.outputs if is_text(value))
    model = without_texts(model)
    plain, failed = Arrangement(values=values, texts=texts), None
    if not _is_doubtful(model, sizes):
        return model, plain
    for axes, is_single in islice(_ways(model, sizes), MAX_TRIED):
        placed = _placed(model, axes, is_single=is_single)
        try:
            ranks = _run(placed, rows, sizes, is_single=is_single)
        except ExportError as error:
            failed = failed or error
            continue
        if ranks is not None:
            outputs = {name: axis for name, (axis, _) in ranks.items()}
            _set_ranks(placed, ranks, is_single=is_single)
            return with_rows_first(placed, {}, outputs), replace(plain, inputs=axes, outputs=outputs)
    _refuse_numbers(model, failed)
    return model, plain


def _refuse_numbers(model: ir.Model, failed: ExportError | None) -> None:
    for value in model.graph.inputs:
        if value.shape is not None and not sizes_of(value):
            raise SourceError(
                f"input '{value.name}' is one number: --input-value {value.name}=NUMBER makes it part of the "
                f"graph, --rows FILE.npz gives it rows ({failed})"
            )


def _shapes(model: ir.Model, sizes: Sizes) -> dict[str, list[Size]]:
    """The inputs' shapes; an open size that has a range is none of rows, and stands as a number."""
    return {
        value.name or "": [
            max(2, sizes[size]) if isinstance(size, str) and size in sizes else size
            for size in sizes_of(value)
        ]
        for value in model.graph.inputs
        if value.shape is not None
    }


def _is_doubtful(model: ir.Model, sizes: Sizes) -> bool:
    """Whether a size says that some tensor may not have its rows first; what a run would find costs time."""
    inputs = list(_shapes(model, sizes).values())
    if not inputs:
        return False
    rows = _num_rows(inputs)
    outputs = [sizes_of(value) if value.shape is not None else [] for value in model.graph.outputs]
    is_fixed = isinstance(rows, int)
    return (
        _may_have_no_rows(inputs, rows)
        or any(not _has_rows_first(shape, rows) for shape in inputs)
        or any(
            not _has_rows_first(shape, rows)
            or (is_fixed and any(not isinstance(size, int) for size in shape))
            or (isinstance(rows, str) and _is_open_elsewhere(shape, rows))
            for shape in outputs
        )
    )


def _may_have_no_rows(inputs: list[list[Size]], rows: Size) -> bool:
    """Whether the first size may as well be of channels, time or features: (3, H, W), of one picture.

    Four axes and more are those of pictures or films, and the first of them is a number of rows.
    """
    return isinstance(rows, int) and rows > 1 and all(len(shape) < PICTURES_RANK for shape in inputs)


def _is_open_elsewhere(shape: list[Size], rows: str) -> bool:
    """Whether an output's first size has another name, and a later one could as well be that of the rows.

    torch's older exporter names each size of an output that it does not know: (y_dim_0, y_dim_1, 12).
    """
    opened = [size for size in shape if not isinstance(size, int)]
    return shape[0] != rows and shape[0] in opened and len(opened) > 1


def _num_rows(shapes: list[list[Size]]) -> Size:
    """The number of rows, or its name: the first open first size, else the first of 1, else the first open
    size of all (layers or time are first, and fixed), else any.
    """
    firsts = [shape[0] for shape in shapes if shape]
    opened = [size for size in firsts if not isinstance(size, int)]
    single = [size for size in firsts if size == 1]
    inner = [size for shape in shapes for size in shape[1:] if isinstance(size, str)]
    return next(iter([*opened, *single, *inner, *firsts]), None)


def _has_rows_first(shape: list[Size], rows: Size) -> bool:
    """Whether nothing speaks against it: another number, or the rows' own name elsewhere."""
    if not shape or (isinstance(shape[0], int) and shape[0] != rows):
        return False
    return shape[0] == rows or not isinstance(rows, str) or rows not in shape


def _ways(model: ir.Model, sizes: Sizes) -> Iterator[tuple[Axes, bool]]:
    """Where inputs may have their rows, likeliest first; and whether one call is then one row."""
    shapes = _shapes(model, sizes)
    rows = _num_rows(list(shapes.values()))
    choices = [_axes_of(shape, rows) for shape in shapes.values()]
    ways: list[Axes] = [dict(zip(shapes, axes, strict=True)) for axes in islice(product(*choices), MAX_TRIED)]
    for axes in ways:
        if None not in axes.values():
            yield axes, False
    for axes in ways:
        yield axes, True
    if _may_have_no_rows(list(shapes.values()), rows):
        yield dict.fromkeys(shapes), True


def _axes_of(shape: list[Size], rows: Size) -> list[int | None]:
    if not shape:
        return [None]
    if _has_rows_first(shape, rows):
        return [0]
    named = [axis for axis, size in enumerate(shape) if isinstance(rows, str) and size == rows]
    opened = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
    single = [axis for axis, size in enumerate(shape) if size == 1]
    return list(dict.fromkeys([*named, *opened, *single])) or [None]


def _placed(model: ir.Model, axes: Axes, *, is_single: bool) -> ir.Model:
    """A copy whose inputs have their rows first, one row if that is all that a call can be."""
    placed = with_rows_first(model, axes, {})
    for value in placed.graph.inputs if is_single else ():
        if value.shape is not None:
            value.shape = ir.Shape([1, *value.shape[1:]])
    return placed


_Ranks = dict[str, tuple[int | None, tuple[int, ...]]]
"""The axis of an output's rows, and its shape for one row, by its name."""


def _run(placed: ir.Model, path: Path | None, sizes: Sizes, *, is_single: bool) -> _Ranks | None:
    """Where outputs have their rows; None where some have none.  Raises ExportError where it cannot run."""
    graph = placed.clone()
    for value in graph.graph.outputs:
        value.shape = None  # a wrong one may stand in the file
    if not is_single:
        graph = with_symbolic_rows(graph)
    rows = some_rows(graph, None if path is None else read_rows(path, placed), 0, sizes)
    run = load(serialize(graph), optimised=False)
    alone = run({name: array[:1] for name, array in rows.items()})
    if is_single:
        return {name: (_axis_of_one(answer.shape), answer.shape) for name, answer in alone.items()}
    together, found = run(rows), _Ranks()
    for name, answer in alone.items():
        axis = _axis_of_rows(answer.shape, together[name].shape, len(next(iter(rows.values()))))
        if axis is None or not _is_same(answer, together[name].take([0], axis)):
            return None
        found[name] = axis, answer.shape
    return found


def _is_same(alone: np.ndarray, together: np.ndarray) -> bool:
    # Noise may be answered by NaN; what a net answers to golden rows is for the proof.
    return not np.isfinite(alone).all() or is_answered_alike(alone, together)


def _axis_of_one(shape: tuple[int, ...]) -> int | None:
    """The first axis of size 1, where a call is one row."""
    return next((axis for axis, size in enumerate(shape) if size == 1), None)


def _axis_of_rows(alone: tuple[int, ...], together: tuple[int, ...], number: int) -> int | None:
    """The one axis that is as long as there are rows: 1 of one row, `number` of them together."""
    if len(alone) != len(together):
        return None
    apart = [
        (axis, one, many) for axis, (one, many) in enumerate(zip(alone, together, strict=True)) if one != many
    ]
    return apart[0][0] if len(apart) == 1 and apart[0][1:] == (1, number) else None


def _set_ranks(placed: ir.Model, ranks: _Ranks, *, is_single: bool) -> None:
    """Give outputs the rank that they really have; of one call that is one row, the first size as well."""
    for value in placed.graph.outputs:
        axis, shape = ranks[value.name or ""]
        if value.shape is None or len(value.shape) != len(shape):
            value.shape = ir.Shape([None] * len(shape))
        if is_single and axis is not None:
            value.shape = ir.Shape([1 if place == axis else size for place, size in enumerate(value.shape)])
