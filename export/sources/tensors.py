"""What a graph's inputs, outputs and labels are, as the manifest describes them."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import onnx_ir as ir

from export.compute.comparable import CUT
from export.errors import SourceError
from export.graph.prepare import ROWS
from export.graph.sizes import sizes_of
from export.sources.transforms import imagenet_labels
from service.contract.tensors import TensorSpec

IMAGENET = "imagenet"


def tensor_spec(value: ir.Value, names: Collection[str] = (), *, remedy: str = CUT) -> TensorSpec:
    """The manifest's description of a graph's input or output; `names` are of sizes that may be open.

    `remedy` is what to do about one number for all rows.
    """
    _check_type(value, remedy)
    found = sizes_of(value) if value.shape is not None else []
    sizes = [dim if isinstance(dim, int) or dim in names else None for dim in found]
    if any(re.search(rf"\b{ROWS}\b", str(size)) for size in found[1:] if size not in names):
        raise SourceError(
            f"a size of '{value.name}' depends on the number of rows, found {value.shape}: rows must stay "
            "the first axis, or be one in an ONNX file"
        )
    if value.dtype is None or not sizes or None in sizes[1:]:
        raise SourceError(
            f"'{value.name}' must have a type, rows first, and fixed sizes after them, found {value.shape}: "
            "--input-shape fixes sizes that are open, or gives them a range; a Transpose puts rows first"
        )
    try:
        dtype = value.dtype.numpy().name
        return TensorSpec.model_validate({"name": value.name, "dtype": dtype, "shape": [None, *sizes[1:]]})
    except (TypeError, ValueError):
        raise SourceError(
            f"'{value.name}' has the type {value.dtype} and the shape {value.shape}, which no client could "
            f"send: {CUT}"
        ) from None


def _check_type(value: ir.Value, remedy: str) -> None:
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        raise SourceError(f"'{value.name}' is {value.type}, and only tensors are served: {CUT}")
    if value.shape is not None and not value.shape:
        raise SourceError(f"'{value.name}' is one number for all rows of a batch: {remedy}")


def read_labels(path: Path | None) -> list[str] | None:
    """Class names, one a line, blank lines left out; raises SourceError if it is not a text file."""
    if path is None:
        return None
    if str(path) == IMAGENET and not path.exists():
        return imagenet_labels()
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: labels must be a text file, one a line: {error}") from None


def labels_for(
    path: Path | None, said: Sequence[str] | None, outputs: Sequence[TensorSpec]
) -> list[str] | None:
    """The labels of a file, else what the source says if it is as many as the first output has classes."""
    if path is None and said is not None and outputs and outputs[0].row_shape == (len(said),):
        return list(said)
    return read_labels(path)
