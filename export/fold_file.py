"""Fold an ONNX file into another: IN.onnx → OUT.onnx, proved on random rows before it appears.

In: the paths.  Out: the account of every BatchNorm.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.errors import SourceError
from export.folds import account, fold
from export.graph import load_graph, prepare, serialize
from export.pack import write_whole
from export.prove import prove_once
from export.truth import graph_evaluator
from service.manifest import FoldAccount

NUM_ROWS = 2
UNKNOWN_SIZE = 64


def fold_file(source: Path, target: Path, *, seed: int, say: Callable[[str], None]) -> FoldAccount:
    """Fold; raises SourceError, FoldError or ProofError, and then `target` is as it was."""
    if target.exists() and target.samefile(source):
        raise SourceError(f"{target}: IN.onnx is never modified; give OUT.onnx another name")
    unfolded = prepare(load_graph(source))
    folded, sites = fold(unfolded)
    if sites:
        say("proving the folded graph on random rows")
        rows = random_rows(unfolded, np.random.default_rng(seed))
        prove_once(serialize(unfolded), serialize(folded), rows, graph_evaluator(unfolded)(rows))
    write_whole(target, serialize(folded))
    return account(sites)


def random_rows(model: ir.Model, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Noise for every input; a symbolic first size is 2 rows, any other 64."""
    return {value.name or "": _noise(value, random) for value in model.graph.inputs}


def _noise(value: ir.Value, random: np.random.Generator) -> np.ndarray:
    if value.dtype is None or value.shape is None:
        raise SourceError(
            f"input '{value.name}' has no type or no shape: no rows can be made to prove the fold"
        )
    sizes = [
        dim if isinstance(dim, int) else UNKNOWN_SIZE if index else NUM_ROWS
        for index, dim in enumerate(value.shape)
    ]
    dtype = value.dtype.numpy()
    if dtype.kind == "f":
        return random.normal(size=sizes).astype(dtype)
    return random.integers(0, 2, size=sizes).astype(dtype)
