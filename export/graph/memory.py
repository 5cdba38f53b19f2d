"""The memory that a proof takes: a row, and all that it becomes on its way, in float64.

In: a graph, and the sizes of a row where they are open.  Out: bytes, and how many rows a proof can hold.
"""

from math import prod

import onnx_ir as ir

from export.graph.given import at_sizes
from export.graph.sizes import sizes_of
from service.contract.sizes import Sizes

NUMBER_BYTES = 8  # in float64
PROOF_BYTES = 1 << 30  # of rows that are computed at once


def row_bytes(model: ir.Model, sizes: Sizes) -> int:
    """The bytes of all tensors that one row becomes; what is not known counts 0."""
    whole = 0
    for node in (at_sizes(model, sizes) if sizes else model).graph:
        for output in node.outputs:
            if output.shape is not None and all(isinstance(size, int) for size in sizes_of(output)[1:]):
                whole += prod(size for size in sizes_of(output)[1:] if isinstance(size, int))
    return NUMBER_BYTES * whole


def rows_that_fit(model: ir.Model, sizes: Sizes) -> int:
    """How many rows PROOF_BYTES hold; 0 where one is too large."""
    return PROOF_BYTES // max(row_bytes(model, sizes), 1)


def rows_at_once(model: ir.Model, sizes: Sizes, max_rows: int | None = None) -> int:
    """How many rows are computed together: those that fit, but at least 2, which show dependence.

    Never more than `max_rows`, the maximum of a batch.
    """
    fitting = max(2, rows_that_fit(model, sizes))
    return fitting if max_rows is None else min(fitting, max_rows)
