"""Open sizes of an ONNX file: at which of them golden rows are made, and what its outputs are there.

In: a graph and the ranges of its inputs' open sizes.  Out: an `OpenSizes`; the manifest's outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import onnx_ir as ir

from export.compute.rows import some_rows
from export.compute.runtime import load
from export.errors import ExportError, SourceError
from export.graph.file import serialize
from export.graph.memory import row_bytes
from export.graph.sizes import sizes_of
from service.contract.sizes import SizeRange, Sizes, described
from service.contract.tensors import TensorSpec

LARGEST_ROW = 4 << 30  # bytes of one row and all that it becomes, in float64
MAX_SIZES = 7
MAX_TRIED = 16

Ranges = Mapping[str, SizeRange]


@dataclass(frozen=True, kw_only=True)
class OpenSizes:
    """Ranges of all open sizes, of inputs and outputs, and the golden sizes of the inputs, ascending."""

    ranges: Ranges
    golden: Sequence[Sizes]


def golden_sizes(model: ir.Model, ranges: Ranges, stated: Sizes | None) -> list[Sizes]:
    """The smallest, the largest, the corners between them, and sizes inside; ascending by numbers of a row.

    `stated` is one more, which a preprocessing asks for.  Raises SourceError where one row would not fit in
    the memory that a proof may use.
    """
    low = {name: held.minimum for name, held in ranges.items()}
    high = {name: held.maximum for name, held in ranges.items()}
    candidates = [
        *([stated] if stated else []),
        low,
        high,
        {name: _inside(held, 2) for name, held in ranges.items()},
        {name: min(held.minimum + held.step, held.maximum) for name, held in ranges.items()},
        *(low | {name: high[name]} for name in ranges),
        {name: _inside(held, 4) for name, held in ranges.items()},
    ]
    found: list[Sizes] = []
    for sizes in candidates:
        if sizes not in found and len(found) < MAX_SIZES:
            found.append(sizes)
    for sizes in (high, *found):
        if (needed := row_bytes(model, sizes)) > LARGEST_ROW:
            raise SourceError(
                f"--input-shape: at {described(sizes)} one row takes {needed / 1e9:.1f} GB to prove in "
                f"float64, at most {LARGEST_ROW / 1e9:.1f} GB are allowed: choose a smaller maximum"
            )
    return sorted(found, key=lambda sizes: _num_elements(model, sizes))


def tried_sizes(ranges: Ranges, golden: Sequence[Sizes]) -> list[Sizes]:
    """More sizes that a graph should run at: a skip connection may fit at every other one only."""
    random = np.random.default_rng(0)
    choices = [range(held.minimum, held.maximum + 1, held.step) for held in ranges.values()]
    if prod(map(len, choices)) <= MAX_TRIED:
        found = [*product(*choices)]
    else:
        found = [tuple(own[random.integers(len(own))] for own in choices) for _ in range(MAX_TRIED)]
    named = [dict(zip(ranges, sizes, strict=True)) for sizes in found]
    return [sizes for sizes in named if sizes not in golden]


def open_outputs(
    model: ir.Model,
    ranges: Ranges,
    sizes: Sequence[Sizes],
    given: Mapping[str, np.ndarray] | None,
    max_rows: int | None,
) -> tuple[list[TensorSpec], dict[str, SizeRange]]:
    """The graph's outputs as a run at each of `sizes` has them, and the ranges of sizes that are their own.

    Raises SourceError that names the size at which the graph cannot run: one of these, or of `tried_sizes`.
    """
    run = load(serialize(model), optimised=False)
    shapes: dict[str, list[tuple[int, ...]]] = {value.name or "": [] for value in model.graph.outputs}
    for at in (*sizes, *tried_sizes(ranges, sizes)):
        rows = {name: array[:2] for name, array in some_rows(model, given, 0, at).items()}
        one = {name: array[:1] for name, array in rows.items()}
        try:
            alone = run(one)
            together = alone if max_rows == 1 else run(rows)
        except ExportError as error:
            raise SourceError(f"--input-shape: at {described(at)} {error}") from None
        if at not in sizes:
            continue  # it runs, which is all that is asked
        for name, found in shapes.items():
            if alone[name].ndim == 0 or alone[name].shape[1:] != together[name].shape[1:]:
                raise SourceError(
                    f"the size of output '{name}' depends on the rows, at {described(at)}: "
                    "they cannot share a batch"
                )
            found.append(alone[name].shape[1:])
    specs, own = [], dict[str, SizeRange]()
    for value in model.graph.outputs:
        spec, of_output = _output(value, shapes[value.name or ""], sizes)
        specs.append(spec)
        own |= of_output
    return specs, own


def _output(
    value: ir.Value, shapes: Sequence[tuple[int, ...]], sizes: Sequence[Sizes]
) -> tuple[TensorSpec, dict[str, SizeRange]]:
    name, shape, ranges = value.name or "", list[int | str](), dict[str, SizeRange]()
    if len({len(found) for found in shapes}) > 1 or value.dtype is None:
        raise SourceError(f"output '{name}' has no type, or another rank at another size")
    for axis, found in enumerate(zip(*shapes, strict=True), 1):
        if len(set(found)) == 1:
            shape.append(found[0])
            continue
        same = [own for own in sizes[0] if tuple(at[own] for at in sizes) == found]
        if not same and min(found) < 1:
            raise SourceError(
                f"axis {axis} of output '{name}' is empty at {described(sizes[found.index(0)])}"
            )
        shape.append(same[0] if same else f"{name}.{axis}")
        if not same:
            ranges[f"{name}.{axis}"] = SizeRange(minimum=min(found), maximum=max(found))
    spec = {"name": name, "dtype": value.dtype.numpy().name, "shape": [None, *shape]}
    return TensorSpec.model_validate(spec), ranges


def _inside(held: SizeRange, part: int) -> int:
    """A size at 1 / `part` of the range."""
    return held.minimum + held.step * ((held.maximum - held.minimum) // held.step // part)


def _num_elements(model: ir.Model, sizes: Sizes) -> int:
    shapes = [sizes_of(value)[1:] for value in model.graph.inputs if value.shape is not None]
    return sum(
        prod(sizes.get(size, 1) if isinstance(size, str) else size or 1 for size in shape) for shape in shapes
    )
