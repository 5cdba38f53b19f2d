"""What is asked of a net's inputs: their shapes, their types, real rows.

In: the flags.  Out: a `NetInput` for each input that they name, none where they name none.

    --input-shape image=3,64,64 --input-shape ids=16 --input-type ids=int32
    --rows FILE.npz                       an array for each input: shapes and types are those of its rows
    --input-shape 20,N,40                 rows on axis 1; they are served first
    --input-shape age=N                   a number for each row
"""

from pathlib import Path

import numpy as np
import torch

from export.errors import SourceError
from export.graph.given import Given
from export.sources.net_inputs import FOUND_TYPES, NetInput
from export.sources.source import SourceOptions
from service.contract.arrays import ArchiveError, read_arrays
from service.contract.text import first_line

ROWS_AXIS = "N"


def asked_of_net(options: SourceOptions) -> list[NetInput]:
    """Each input that the flags name; raises SourceError where they disagree."""
    if options.values:
        raise SourceError("--input-value is for ONNX files: give a net that value in its factory")
    rows = {} if options.rows is None else _arrays(options.rows)
    if len(rows) == 1 and len(options.shapes) <= 1:  # as of a file with one input, the array's name is free
        rows = {next(iter(options.shapes), ""): next(iter(rows.values()))}
    names = list(dict.fromkeys([*options.shapes, *rows]))
    if "" in names and len(names) > 1:
        raise SourceError("--input-shape must name each input of a net of several, NAME=C,H,W")
    if unknown := [name for name in options.types if name not in names]:
        raise SourceError(f"--input-type {unknown[0]}: no --input-shape and no array of --rows is called so")
    return [_asked(name, options, rows.get(name)) for name in names]


def _asked(name: str, options: SourceOptions, rows: np.ndarray | None) -> NetInput:
    shape, axis = _sizes(options.shapes[name]) if name in options.shapes else ((), 0)
    if rows is not None and name in options.shapes and rows.shape[1:] != shape:
        raise SourceError(
            f"array '{name}' of --rows has rows of {list(rows.shape[1:])}, --input-shape says {list(shape)}"
        )
    return NetInput(
        name=name,
        row_shape=shape if rows is None else rows.shape[1:],
        axis=axis,
        types=_types(options.types.get(name), rows),
        rows=rows,
    )


def _types(asked: str | None, rows: np.ndarray | None) -> tuple[torch.dtype, ...]:
    """The one that is asked for; else that of real rows first, where it is one of whole numbers."""
    if asked is not None:
        return (getattr(torch, asked),)
    if rows is None or rows.dtype.kind == "f":
        return FOUND_TYPES
    own: torch.dtype = torch.from_numpy(rows[:0]).dtype
    return tuple(dict.fromkeys([own, *FOUND_TYPES]))


def _sizes(shape: tuple[Given | str, ...]) -> tuple[tuple[int, ...], int]:
    """The sizes of a row, and the axis of the rows, which is that of N."""
    named = [axis for axis, size in enumerate(shape) if size == ROWS_AXIS]
    sizes = [size for size in shape if isinstance(size, int)]
    others = [size for size in shape if not isinstance(size, int) and size != ROWS_AXIS]
    if len(named) > 1 or others:
        text = others[0] if others and isinstance(others[0], str) else None
        found = f"'{text}'" if text else "a range" if others else "two"
        raise SourceError(
            "--input-shape of a net is numbers, because it is traced at one size, and one N at most, where "
            f"its rows are, found {found}: export it to ONNX with open sizes, and give ranges for that file"
        )
    return tuple(sizes), named[0] if named else 0


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            arrays = read_arrays(file)
    except (OSError, ArchiveError) as error:
        raise SourceError(f"{path}: --rows cannot be read as an .npz file: {first_line(error)}") from None
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) < 2 or array.dtype.kind not in "fiub":
            raise SourceError(
                f"{path}: array '{name}' has the shape {list(array.shape)} of {array.dtype}, expected at "
                "least two rows of numbers"
            )
    return arrays
