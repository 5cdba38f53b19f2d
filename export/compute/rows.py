"""Rows for a graph of which nothing is known but its inputs, or rows that the user gives.

In: a graph.  Out: noise in the shape and dtype of each input; or the arrays of an .npz file that fit.

Noise does not fit every graph: a Log wants positive numbers, a Gather indices of its table.  There the user
gives real rows.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.errors import SourceError
from service.contract.arrays import ArchiveError, read_arrays
from service.contract.sizes import Sizes
from service.contract.text import first_line

NUM_ROWS = 8
UNKNOWN_SIZE = 64
_UNKNOWN: Sizes = {}


def random_rows(
    model: ir.Model, random: np.random.Generator, sizes: Sizes = _UNKNOWN
) -> dict[str, np.ndarray]:
    """Noise for every input, by name; an open size is as in `sizes`, else 8 rows if it is first, or 64.

    A name stands for one size: the rows of one input may be the second axis of an LSTM's state.
    """
    named = dict(sizes)
    for axis in (0, 1, 2):  # what an axis means is surest of the first
        for value in model.graph.inputs:
            found = _sizes(value)
            for size in found[axis:] if axis == 2 else found[axis : axis + 1]:
                if isinstance(size, str):
                    named.setdefault(size, (NUM_ROWS, _channels(value), UNKNOWN_SIZE)[axis])
    return {value.name or "": _noise(value, named, random) for value in model.graph.inputs}


def read_rows(path: Path, model: ir.Model) -> dict[str, np.ndarray]:
    """Rows of every input of `model` from an .npz file, by the inputs' names, at least 2; or SourceError."""
    try:
        with path.open("rb") as file:
            arrays = read_arrays(file)
    except (OSError, ArchiveError) as error:
        raise SourceError(f"{path}: --rows cannot be read as an .npz file: {first_line(error)}") from None
    names = [value.name or "" for value in model.graph.inputs]
    if len(names) == len(arrays) == 1:
        arrays = {names[0]: next(iter(arrays.values()))}
    if sorted(arrays) != sorted(names):
        raise SourceError(f"{path}: --rows must have the arrays {names}, found {sorted(arrays)}")
    for value in model.graph.inputs:
        arrays[value.name or ""] = _fitting(arrays[value.name or ""], value, path)
    if len({len(array) for array in arrays.values()}) > 1:
        raise SourceError(f"{path}: the arrays of --rows must have as many rows each")
    return arrays


def some_rows(
    model: ir.Model, given: Mapping[str, np.ndarray] | None, seed: int, sizes: Sizes = _UNKNOWN
) -> dict[str, np.ndarray]:
    """The first of the rows that are `given`, as many as the graph takes at once; noise if there are none.

    `sizes` are those of the rows, where the graph leaves them open.
    """
    if given is None:
        return random_rows(model, np.random.default_rng(seed), sizes)
    fixed = {value.shape[0] for value in model.graph.inputs if value.shape}
    number = next((size for size in fixed if isinstance(size, int)), NUM_ROWS)
    return resized(model, {name: array[:number] for name, array in given.items()}, sizes)


def resized(model: ir.Model, rows: Mapping[str, np.ndarray], sizes: Sizes) -> dict[str, np.ndarray]:
    """These rows at other sizes: cut off, or repeated along open axes, so that their numbers stay real."""
    found = {}
    for value in model.graph.inputs:
        array = rows[value.name or ""]
        for axis, name in enumerate(_sizes(value)):
            if axis > 0 and isinstance(name, str) and name in sizes:
                array = np.take(array, np.arange(sizes[name]) % array.shape[axis], axis)
        found[value.name or ""] = array
    return found


def _fitting(array: np.ndarray, value: ir.Value, path: Path) -> np.ndarray:
    """The array in the input's dtype; raises SourceError where its shape or numbers do not fit."""
    where = f"{path}: array '{value.name}'"
    sizes = _sizes(value)
    fits = array.ndim == len(sizes) and all(
        not isinstance(size, int) or found == size
        for found, size in zip(array.shape[1:], sizes[1:], strict=True)
    )
    if not fits or value.dtype is None:
        raise SourceError(f"{where} has the shape {list(array.shape)}, the input is {value.shape}")
    least = max(2, sizes[0] if isinstance(sizes[0], int) else 2)
    if len(array) < least:
        raise SourceError(f"{where} has {len(array)} rows, expected at least {least}")
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise SourceError(f"{where} is {array.dtype}, or not finite: expected finite numbers")
    dtype = value.dtype.numpy()
    if dtype.kind != "f" and (array.astype(dtype) != array).any():
        raise SourceError(f"{where} is {array.dtype}, and not all of it is {dtype}, the input's type")
    with np.errstate(over="ignore"):
        rows: np.ndarray = array.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(rows).all():
        raise SourceError(f"{where} holds numbers beyond {dtype}, the input's type")
    return rows


def _channels(value: ir.Value) -> int:
    """What the weights that read an input expect on its axis 1."""
    for reader in value.consumers():
        weight = constant(reader.inputs[1]) if len(reader.inputs) > 1 else None
        if weight is not None and reader.op_type == "Conv":
            return int(weight.shape[1] * reader.attributes.get_int("group", 1))
        if weight is not None and reader.op_type in ("ConvTranspose", "BatchNormalization", "MatMul"):
            return int(weight.shape[0])
        if weight is not None and reader.op_type == "Gemm":
            return int(weight.shape[reader.attributes.get_int("transB", 0)])
    return UNKNOWN_SIZE


def _noise(value: ir.Value, named: Mapping[str, int], random: np.random.Generator) -> np.ndarray:
    if value.dtype is None or value.shape is None:
        raise SourceError(
            f"input '{value.name}' has no type or no rank, so no rows can be made to prove the fold: "
            f"--input-shape {value.name}=C,H,W gives its sizes"
        )
    unknown = [NUM_ROWS, _channels(value), *[UNKNOWN_SIZE] * len(value.shape)]
    sizes = [
        size if isinstance(size, int) else named.get(size or "", unknown[axis])
        for axis, size in enumerate(_sizes(value))
    ]
    dtype = value.dtype.numpy()
    if dtype.kind == "f":
        return random.normal(size=sizes).astype(dtype)
    largest = 256 if dtype == np.uint8 else 2
    return random.integers(0, largest, size=sizes).astype(dtype)


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of a value that no node computes, if there is one."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _sizes(value: ir.Value) -> list[int | str | None]:
    """Numbers, or names of open sizes; none where the rank is unknown."""
    return [size if isinstance(size, int) else size.value for size in value.shape or []]
