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

from export.graph.edit import constant, onnx_op
from export.graph.prepare import tidy

_MOVED = {"Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose", "Identity"}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One output that an op chooses; `scores` are names of outputs that `showing_scores` adds.

    Of a choice inside the graph, `output` is the name of the tensor of places that other ops read.
    """

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


def inner_choices(model: ir.Model) -> list[Choice]:
    """Every choice whose places other ops compute with, as a Gather of boxes does; in the graph's order.

    Integers tie alike in every run: what is chosen among them is no matter of rounding.
    """
    shown = {choice.node for choice in choices(model)}
    found = []
    for node in model.graph:
        scores, places = node.inputs[0] if node.inputs else None, node.outputs[-1]
        is_rounded = scores is not None and (scores.dtype is None or scores.dtype.is_floating_point())
        if onnx_op(node) not in ("TopK", "ArgMax", "ArgMin") or node.name in shown or not is_rounded:
            continue
        if places.uses() and (choice := _choice(places.name or "", places, node)):
            found.append(choice)
    return found


def _choice(output: str, places: ir.Value, node: ir.Node) -> Choice | None:
    op_type, count = onnx_op(node), 1
    if op_type == "TopK":
        wanted = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_int("k", 1)
        if wanted is None and places.shape is not None:  # computed, as min(300, boxes) is
            size = places.shape[node.attributes.get_int("axis", -1)]
            wanted = size if isinstance(size, int) else None
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
