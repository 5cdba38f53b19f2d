"""Files whose first size counts parts of one call, as the nodes of a graph, and no rows.

    x (nodes, 8), edge_index (2, edges)        x (nodes, 8), adjacency (nodes, nodes)

Nothing tells them from files of rows but that some input has no such first size.  Where the rows do not fit,
the error says how one graph becomes one row.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir

from export.errors import ExportError
from export.graph.prepare import ROWS
from export.graph.sizes import sizes_of


@contextmanager
def suggesting_parts(model: ir.Model) -> Iterator[None]:
    """Let an error of rows that do not fit name the size that may count parts of one call."""
    try:
        yield
    except ExportError as error:
        is_of_rows = any(words in str(error) for words in ("rows first", "number of rows", "cannot run the"))
        if not is_of_rows or (name := _parts_name(model)) is None:
            raise
        raise type(error)(
            f"{error}; if '{name}' counts parts of one call, as the nodes of a graph, and no rows: "
            f"--input-shape {name}=NUMBER, and a number or a range for each other open size"
        ) from error


def _parts_name(model: ir.Model) -> str | None:
    """The name of an input's first size, where another input speaks against rows."""
    shapes = [sizes_of(value) for value in model.graph.inputs if value.shape is not None]
    firsts = [shape[0] for shape in shapes if shape]
    rows = next((size for size in firsts if isinstance(size, str) and size != ROWS), None)
    is_fixed = any(isinstance(size, int) and size > 1 for size in firsts)
    return rows if is_fixed or any(rows in shape[1:] for shape in shapes) else None
