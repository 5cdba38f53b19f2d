"""Rows for a graph of which nothing is known but its inputs.

In: a graph.  Out: noise in the shape and dtype of each input.
"""

import numpy as np
import onnx_ir as ir

from export.errors import SourceError

NUM_ROWS = 8
UNKNOWN_SIZE = 64


def random_rows(model: ir.Model, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Noise for every input, by name; an unknown first size is 8 rows, any other 64."""
    return {value.name or "": _noise(value, random) for value in model.graph.inputs}


def _channels(value: ir.Value) -> int:
    """What the weights that read an input expect on its axis 1."""
    for reader in value.consumers():
        weight = _array(reader.inputs[1]) if len(reader.inputs) > 1 else None
        if weight is not None and reader.op_type == "Conv":
            return int(weight.shape[1] * reader.attributes.get_int("group", 1))
        if weight is not None and reader.op_type in ("ConvTranspose", "BatchNormalization", "MatMul"):
            return int(weight.shape[0])
        if weight is not None and reader.op_type == "Gemm":
            return int(weight.shape[reader.attributes.get_int("transB", 0)])
    return UNKNOWN_SIZE


def _noise(value: ir.Value, random: np.random.Generator) -> np.ndarray:
    if value.dtype is None or value.shape is None:
        raise SourceError(
            f"input '{value.name}' has no type or no shape: no rows can be made to prove the fold"
        )
    unknown = [NUM_ROWS, _channels(value), *[UNKNOWN_SIZE] * len(value.shape)]
    sizes = [dim if isinstance(dim, int) else unknown[index] for index, dim in enumerate(value.shape)]
    dtype = value.dtype.numpy()
    if dtype.kind == "f":
        return random.normal(size=sizes).astype(dtype)
    largest = 256 if dtype == np.uint8 else 2
    return random.integers(0, largest, size=sizes).astype(dtype)


def _array(value: ir.Value | None) -> np.ndarray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()
