"""What a run says of a graph that its file does not: may rows come together, and how large are answers?

In: a graph with its sizes, and a few rows.  Out: whether they are answered together as alone; the sizes.

    x (1, 3, 8, 8) → Squeeze → …      a class token of shape (1, 1, D)      Reshape to (1, −1) of merged rows

Such a graph is right with one row, as its exporter traced it, and is served so.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from export.compute.comparable import CUT
from export.compute.runtime import load
from export.compute.truth import INDEPENDENT_FLOAT32
from export.errors import ExportError, SourceError
from export.graph.file import serialize
from export.graph.prepare import ROWS
from service.contract.parity import difference, in_batches


def takes_many_rows(graph: ir.Model, rows: Mapping[str, np.ndarray]) -> bool:
    """Whether ONNX Runtime answers these rows together as it does singly."""
    try:
        run = load(serialize(graph), optimised=False)
    except ExportError:
        return False  # with any number of rows, its shapes contradict each other
    try:
        alone = in_batches(run, rows, 1)
    except ExportError:
        return False  # a size of 1 was mistaken for the number of rows, or the file itself does not run
    if not all(np.isfinite(answer).all() for answer in alone.values()):
        return True
    try:
        together = run(rows)
    except ExportError:
        return False
    return all(is_answered_alike(alone[name], together[name]) for name in alone)


def is_answered_alike(alone: np.ndarray, together: np.ndarray) -> bool:
    """Whether one output of rows that were run alone and together is the same, up to float32's rounding."""
    limit = INDEPENDENT_FLOAT32 * float(np.abs(alone).max(initial=0.0))
    return difference(together, alone.astype(np.float64)) <= limit


def quantizes_by_batch(graph: ir.Model) -> bool:
    """Whether a scale is that of all rows of a batch: then a row alone is rounded otherwise, and no worse."""
    return any(node.op_type.startswith("DynamicQuantize") for node in graph.graph.all_nodes())


def check_single_rows(graph: ir.Model, rows: Mapping[str, np.ndarray], number: int) -> None:
    """Raise SourceError if a file of `number` rows cannot answer one of them alone."""
    try:
        load(serialize(graph), optimised=False)({name: array[:1] for name, array in rows.items()})
    except ExportError as error:
        raise SourceError(
            f"its {number} rows are fixed, and it cannot answer one alone: export it with one row, or an "
            f"open number of rows ({error})"
        ) from error


def with_output_sizes(graph: ir.Model, rows: Mapping[str, np.ndarray]) -> None:
    """Set the sizes of outputs that shape inference left open to those of a run; in place.

    A size that depends on the rows' numbers stays open: there, one row alone has another than all.
    Raises SourceError for an output without rows first.
    """
    opened = [value for value in graph.graph.outputs if value.shape is None or None in _row_sizes(value)]
    if not opened or any(None in _row_sizes(value) for value in graph.graph.inputs):
        return
    try:
        run = load(serialize(graph), optimised=False)
        together, alone = run(rows), run({name: array[:1] for name, array in rows.items()})
    except ExportError:
        return
    number = len(next(iter(rows.values())))
    for value in opened:
        found = together[value.name or ""].shape
        if found and found[0] != number and value.shape is not None:  # the file says rows first, wrongly
            raise SourceError(
                f"output '{value.name}' has the shape {list(found)}, not {number} first, the number of rows: "
                f"{CUT}"
            )
        if found and found[1:] == alone[value.name or ""].shape[1:]:
            first = value.shape[0] if value.shape else ROWS
            value.shape = ir.Shape([first, *found[1:]])


def _row_sizes(value: ir.Value) -> list[int | None]:
    """The sizes after the rows, None where open."""
    return [size if isinstance(size, int) else None for size in (value.shape or [])][1:]
