"""What a graph's inputs, outputs and labels are, as the manifest describes them."""

from pathlib import Path

import onnx_ir as ir

from export.errors import SourceError
from service.contract.manifest import TensorSpec


def tensor_spec(value: ir.Value) -> TensorSpec:
    """The manifest's description of a graph's input or output."""
    sizes = [dim if isinstance(dim, int) else None for dim in value.shape or []]
    if value.dtype is None or not sizes or None in sizes[1:]:
        raise SourceError(
            f"'{value.name}' must have a type and fixed sizes after its rows, found {value.shape}"
        )
    try:
        dtype = value.dtype.numpy().name
        return TensorSpec.model_validate({"name": value.name, "dtype": dtype, "shape": [None, *sizes[1:]]})
    except (TypeError, ValueError) as error:
        raise SourceError(
            f"'{value.name}' has type {value.dtype}, which no client could send: {error}"
        ) from None


def read_labels(path: Path | None) -> list[str] | None:
    """Class names, one a line, blank lines left out; raises SourceError if it is not a text file."""
    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: labels must be a text file, one a line: {error}") from None
