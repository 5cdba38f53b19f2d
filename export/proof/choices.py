"""Outputs that are chosen: the places of the largest scores, by ArgMax, ArgMin, TopK or NonMaxSuppression.

Where two scores are nearly equal, rounding decides which is larger.  So one flip between such scores says
nothing about a fold, and would refuse any segmentation net: its 10⁶ pixels always hold some.  Instead

    the scores themselves are proved, as if they were outputs of the graph
    a place may differ only as often as scores tie: their difference is within twice the scores' tolerance

What NonMaxSuppression chooses also depends on how far boxes overlap, and a flip moves all that follows: its
boxes and scores are proved, its choice is not compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.compute.runtime import load
from export.compute.truth import graph_truth
from export.errors import ProofError
from export.graph.edit import constant, onnx_op
from export.graph.file import serialize
from export.graph.prepare import tidy
from service.contract.bundle import Golden
from service.contract.manifest import MIN_GOLDEN_ROWS
from service.contract.parity import batches, difference
from service.contract.tolerances import derived_tolerance

_MOVED = {"Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose", "Identity"}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One output that an op chooses; `scores` are names of outputs that `showing_scores` adds."""

    output: str
    op_type: str
    node: str
    scores: tuple[str, ...]
    axis: int
    largest: bool
    count: int


def choices(model: ir.Model) -> list[Choice]:
    """Every output of the graph that is chosen, through any ops that only move places."""
    found = []
    for value in model.graph.outputs:
        source: ir.Value | None = value
        while source is not None and onnx_op(source.producer()) in _MOVED:
            producer = source.producer()
            source = producer.inputs[0] if producer is not None else None
        node = source.producer() if source is not None else None
        if node is not None and source is not None and (choice := _choice(value.name or "", source, node)):
            found.append(choice)
    return found


def _choice(output: str, places: ir.Value, node: ir.Node) -> Choice | None:
    op_type, count = onnx_op(node), 1
    if op_type == "TopK":
        wanted = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_int("k", 1)
        if places is not node.outputs[1] or wanted is None:
            return None
        count = int(np.ravel(wanted)[0])
    elif op_type not in ("ArgMax", "ArgMin", "NonMaxSuppression"):
        return None
    num_scores = 2 if op_type == "NonMaxSuppression" else 1
    return Choice(
        output=output,
        op_type=op_type or "",
        node=node.name or "",
        scores=tuple(f"{node.name}.scores{index or ''}" for index in range(num_scores)),
        axis=node.attributes.get_int("axis", -1 if op_type == "TopK" else 0),
        largest=op_type != "ArgMin" and node.attributes.get_int("largest", 1) == 1,
        count=count,
    )


def showing_scores(model: ir.Model, found: Sequence[Choice]) -> ir.Model:
    """A copy that puts out the scores too; the model itself if nothing is chosen."""
    if not found:
        return model
    model = model.clone()
    nodes = {node.name: node for node in model.graph}
    shown = {value.name for value in model.graph.outputs}
    for choice in found:
        for index, name in enumerate(choice.scores):
            source = nodes[choice.node].inputs[index]
            if name in shown or source is None:
                continue
            copy = ir.node("Identity", [source], name=name)
            copy.outputs[0].name, copy.outputs[0].type, copy.outputs[0].shape = (
                name,
                source.type,
                source.shape,
            )
            model.graph.append(copy)
            model.graph.outputs.append(copy.outputs[0])
            shown.add(name)
    return tidy(model)


def ties(choice: Choice, scores: np.ndarray, margin: float) -> np.ndarray:
    """Which places near-equal scores decide: booleans of the shape of the op's answer, its axis kept."""
    if choice.axis % scores.ndim:  # row by row: a segmentation net's scores fill the memory as they are
        return np.concatenate([_ties(choice, scores[row : row + 1], margin) for row in range(len(scores))])
    return _ties(choice, scores, margin)


def _ties(choice: Choice, scores: np.ndarray, margin: float) -> np.ndarray:
    ordered = np.sort(-scores if choice.largest else scores, axis=choice.axis)
    count = min(choice.count, ordered.shape[choice.axis])
    near = np.diff(np.moveaxis(ordered, choice.axis, -1)[..., : count + 1]) <= margin
    tied = np.zeros((*near.shape[:-1], count), dtype=bool)
    tied[..., : near.shape[-1]] |= near[..., :count]  # the next one is as large
    tied[..., 1:] |= near[..., : count - 1]  # or the one before
    return np.moveaxis(tied, -1, choice.axis)


def flips(
    choice: Choice,
    answers: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    margins: Mapping[str, float],
) -> str | None:
    """Why the chosen places are wrong, or None; `margins` are the tolerances of the scores, by name."""
    if choice.op_type == "NonMaxSuppression":
        return None
    answer, expected = answers[choice.output], truth[choice.output]
    if answer.shape != expected.shape:
        return f"output '{choice.output}' has shape {list(answer.shape)}, expected {list(expected.shape)}"
    (name,) = choice.scores
    share = float(ties(choice, truth[name], 2 * margins[name]).mean())
    if (differ := float((answer != expected).mean())) <= share:
        return None
    return (
        f"output '{choice.output}' differs in {differ:.3%} of its places, "
        f"{choice.op_type} '{choice.node}' has near-equal scores in {share:.3%}"
    )


def untied(
    model: ir.Model, golden: Golden, needed: int = MIN_GOLDEN_ROWS, max_rows: int | None = None
) -> Golden:
    """The golden rows whose chosen outputs no near-equal scores decide: only those can be compared.

    `max_rows` is the maximum of a batch, if there is one.

    Raises:
        ProofError: fewer are left than `needed`.
    """
    found = choices(model)
    if not found:
        return golden
    shown = showing_scores(model, found)
    truth = graph_truth(shown, {name: array[:1] for name, array in golden.inputs.items()})
    run = load(serialize(shown), optimised=False)
    parts = list(batches(golden.inputs, max_rows or golden.num_rows))
    sizes = [len(next(iter(part.values()))) for part in parts]
    # A graph of one row may have scores without an axis for rows: each call is judged by itself.
    answers, measured = [truth.evaluate(part) for part in parts], [run(part) for part in parts]
    is_tied = np.zeros(golden.num_rows, dtype=bool)
    for choice in found:
        # What NonMaxSuppression chooses is no order along an axis: whether it is the same is measured.
        for name in () if choice.op_type == "NonMaxSuppression" else choice.scores:
            pairs = [(one[name], other[name]) for one, other in zip(measured, answers, strict=True)]
            margin = 2 * derived_tolerance(
                unfolded_error=max(difference(one, other) for one, other in pairs),
                output_range=max(float(np.abs(other).max()) for _, other in pairs),
            )
            tied = [ties(choice, scores, margin) for _, scores in pairs]
            rows_tied = [one.reshape(size, -1).any(axis=1) for one, size in zip(tied, sizes, strict=True)]
            is_tied |= np.concatenate(rows_tied)
    if (kept := int((~is_tied).sum())) < needed:
        raise ProofError(
            f"near-equal scores decide output '{found[0].output}' ({found[0].op_type} '{found[0].node}') in "
            f"{golden.num_rows - kept} of {golden.num_rows} golden rows, so that it cannot be proved row by "
            "row: export the scores instead"
        )
    rows = np.flatnonzero(~is_tied)
    return Golden(
        inputs={name: array[rows] for name, array in golden.inputs.items()},
        outputs={name: array[rows] for name, array in golden.outputs.items()},
        sizes=golden.sizes,
    )
