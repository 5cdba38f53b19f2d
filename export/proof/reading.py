"""Prove that a graph was read as ONNX Runtime reads its file.

In: a file and the prepared graph.  Out: nothing, or a ProofError.

Whatever loading and preparing change (constants, names that stand twice, inlined functions) is in the
prepared graph, and so in both sides of every later proof.  Here the file itself is the other side.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from export.compute.reference import graph_evaluator
from export.compute.runtime import load
from export.errors import ProofError, SourceError
from export.fold.batchnorm import read_batchnorm
from export.graph.edit import batchnorms, constant
from export.graph.file import serialize
from export.proof.prove import derive
from service.contract.parity import difference

NUM_ROWS = 8
UNKNOWN_SIZE = 64


def prove_reading(path: Path, prepared: ir.Model, seed: int) -> None:
    """Run both on random rows; raises ProofError if the file is beyond the prepared graph's tolerance."""
    for node in batchnorms(prepared):
        read_batchnorm(node)  # a layer whose numbers are broken is named, before its answers say nothing
    rows = random_rows(prepared, np.random.default_rng(seed))
    truth = graph_evaluator(prepared)(rows)
    again, itself = (
        load(serialize(prepared), optimised=False)(rows),
        load(_runnable(path), optimised=False)(rows),
    )
    for name, expected in truth.items():
        tolerance = derive(
            unfolded_error=difference(again[name], expected),
            folded_error=(apart := difference(itself[name], expected)),
            truth=expected,
        )
        if not apart <= tolerance.max_abs:
            raise ProofError(
                f"{path} was not read as ONNX Runtime reads it: output '{name}' differs by {apart:.3g}, "
                f"the tolerance is {tolerance.max_abs:.3g}"
            )


def _runnable(path: Path) -> Path | bytes:
    """The file; with names where ONNX Runtime 1.31 segfaults: unnamed outputs of a BatchNorm in training."""
    proto = onnx.load(path, load_external_data=False)
    in_training = [
        node
        for node in proto.graph.node
        if node.op_type == "BatchNormalization"
        and any(a.name == "training_mode" and a.i for a in node.attribute)
    ]
    if not any("" in node.output for node in in_training):
        return path
    onnx.load_external_data_for_model(proto, str(path.parent))
    for index, node in enumerate(in_training):
        node.output[:] = [name or f"unnamed_{index}_{place}" for place, name in enumerate(node.output)]
    return bytes(proto.SerializeToString())


def random_rows(model: ir.Model, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Noise for every input; a symbolic first size is 8 rows, any other 64."""
    return {value.name or "": _noise(value, random) for value in model.graph.inputs}


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
