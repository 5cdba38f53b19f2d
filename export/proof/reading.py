"""Prove that a graph was read as ONNX Runtime reads its file.

In: a file and the prepared graph.  Out: the truth that it was measured by, or a ProofError.

Whatever loading and preparing change (constants, names that stand twice, inlined functions) is in the
prepared graph, and so in both sides of every later proof.  Here the file itself is the other side.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from export.compute.precision import computes_in_float64
from export.compute.reference import graph_evaluator
from export.compute.rows import some_rows
from export.compute.runtime import load
from export.compute.texts import texts_apart
from export.compute.truth import GraphTruth, graph_truth
from export.errors import ExportError, ProofError, naming
from export.fold.batchnorm import read_batchnorm
from export.graph.edit import batchnorms
from export.graph.file import serialize
from export.graph.maps import has_maps, without_maps
from export.graph.memory import rows_at_once
from export.graph.mended import is_in_words, load_proto, mend
from export.graph.raised import is_early, raised
from export.graph.rows_first import Arrangement
from export.proof.choices import choices, showing_scores
from export.proof.prove import compare, disagreement
from export.proof.untied import naming_choice
from service.contract.parity import Run
from service.contract.sizes import Sizes

AS_IT_IS = Arrangement()


def prove_reading(
    path: Path,
    prepared: ir.Model,
    seed: int,
    given: Mapping[str, np.ndarray] | None = None,
    sizes: Sequence[Sizes] = (),
    arrangement: Arrangement = AS_IT_IS,
) -> GraphTruth:
    """Run both on the rows that are `given`, else on noise; at each of `sizes` where sizes are open.

    `arrangement` says where the file has its rows, which the prepared graph has first.
    Returns the truth that it was proved against, with the scores of what is chosen; it knows the answers to
    the rows of the last size.  Raises ProofError if the file is beyond the prepared graph's tolerance.
    """
    for node in batchnorms(prepared):
        read_batchnorm(node)  # a layer whose numbers are broken is named, before its answers say nothing
    chosen = choices(prepared)
    shown = showing_scores(prepared, chosen)
    runs = load(serialize(shown), optimised=False), _arranged(_of_file(path), arrangement)
    truth: GraphTruth | None = None
    for at in sizes or ({},):
        rows = some_rows(prepared, given, seed, at)
        if at or _has_open_rows(prepared):
            # A large size may need much memory, and reading does not depend on the number of rows.
            number = 2 if at else rows_at_once(prepared, at)
            rows = {name: array[:number] if array.ndim else array for name, array in rows.items()}
        with naming(at), naming_choice(prepared):
            truth = truth or graph_truth(shown, rows)
            answers = truth.evaluate(rows)
            again, itself = (run(rows) for run in runs)
            tolerances = compare(again, {**again, **itself}, answers, truth.noise(rows, answers), chosen)
            if why := disagreement(tolerances, itself, answers, chosen) or texts_apart(again, itself):
                raise ProofError(f"{path} was not read as ONNX Runtime reads it: {why}")
    assert truth is not None
    return truth


def _arranged(run: Run, arrangement: Arrangement) -> Run:
    """The same, of rows that come first."""
    return lambda rows: arrangement.from_file(run(arrangement.to_file(rows)))


def _has_open_rows(model: ir.Model) -> bool:
    return not any(value.shape and isinstance(value.shape[0], int) for value in model.graph.inputs)


def _of_file(path: Path) -> Run:
    """What the file answers in ONNX Runtime; where that has no kernel for its type, ONNX's reference."""
    try:
        return load(_runnable(path), optimised=False)
    except ExportError as error:
        model = ir.load(path)
        if not computes_in_float64(model) and "bfloat16" not in str(error):
            raise
        return graph_evaluator(ir.external_data.load_to_model(model))


def _runnable(path: Path) -> Path | bytes:
    """The file; with tensors for maps; without unnamed outputs of BatchNorms, where ONNX Runtime 1.31
    segfaults: those of one in training get names.  Nodes that share a name get one each.
    """
    proto = load_proto(path)
    if has_maps(proto):
        return bytes(without_maps(onnx.load(path)).SerializeToString())
    if is_early(proto):  # ONNX Runtime reads it, and takes no notice of where an Add broadcasts
        return bytes(raised(proto).SerializeToString())
    is_mended = mend(proto)
    in_training = [
        node
        for node in proto.graph.node
        if node.op_type == "BatchNormalization"
        and any(a.name == "training_mode" and a.i for a in node.attribute)
    ]
    if not is_mended and not is_in_words(path) and not any("" in node.output for node in in_training):
        return path
    onnx.load_external_data_for_model(proto, str(path.parent))
    for index, node in enumerate(in_training):
        node.output[:] = [name or f"unnamed_{index}_{place}" for place, name in enumerate(node.output)]
    return bytes(proto.SerializeToString())
