"""Golden rows that no near-equal scores decide: a client can compare only those row by row.

In: a graph and golden rows.  Out: the rows that are left, or a ProofError.

A choice of an output itself must not hang on rounding: too few rows left is an error.  A choice inside the
graph, of boxes that a Gather takes, may or may not matter for the answers: rows with ties go if enough are
left or can be drawn, else all stay and the proof measures.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.compute.comparable import CUT
from export.compute.runtime import load
from export.compute.truth import graph_truth
from export.errors import ProofError
from export.graph.file import serialize
from export.proof.choices import Choice, choices, inner_choices, showing_scores, ties
from service.contract.bundle import Golden
from service.contract.manifest import MIN_GOLDEN_ROWS
from service.contract.parity import batches, difference
from service.contract.tolerances import derived_tolerance

ATTEMPTS = 6  # times rows are drawn


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A batch of golden rows, and the scores that ONNX Runtime and the truth give them."""

    rows: np.ndarray
    measured: Mapping[str, np.ndarray]
    truth: Mapping[str, np.ndarray]


def untied(
    model: ir.Model,
    golden: Golden,
    needed: int = MIN_GOLDEN_ROWS,
    max_rows: int | None = None,
    more: Callable[[int], Golden] | None = None,
) -> Golden:
    """The golden rows whose answers no near-equal scores decide: only those can be compared.

    `max_rows` is the maximum of a batch, if there is one; `more` draws as many new rows, given a number.

    Raises:
        ProofError: near-equal scores decide an output itself, and fewer rows are left than `needed`.
    """
    found, inner = choices(model), inner_choices(model)
    if not (found or inner):
        return golden
    left = first = _untied(model, golden, inner, found, max_rows)
    for number in range(1, ATTEMPTS):
        # Each draw takes as long as the first: none where those that may be drawn would not be enough.
        if more is None or left.num_rows >= needed or first.num_rows * ATTEMPTS < needed:
            break
        left = _joined(left, _untied(model, more(number), inner, found, max_rows))
    if left.num_rows < needed and inner:
        left = first = _untied(model, golden, (), found, max_rows)
    if left.num_rows < needed:
        raise ProofError(
            f"near-equal scores decide output '{found[0].output}' ({found[0].op_type} '{found[0].node}') in "
            f"{golden.num_rows - first.num_rows} of {golden.num_rows} golden rows, so that it cannot be "
            "proved row by row: export the scores instead"
        )
    return left


def _untied(
    model: ir.Model,
    golden: Golden,
    inner: Sequence[Choice],
    found: Sequence[Choice],
    max_rows: int | None,
) -> Golden:
    """The rows that none of these choices leaves to rounding; there may be none."""
    if not (inner or found):
        return golden
    # Inside the graph rows need not be the first axis: one row at a time, all that is there is its own.
    parts = _parts(showing_scores(model, [*found, *inner]), golden, 1 if inner else max_rows)
    is_tied = np.zeros(golden.num_rows, dtype=bool)
    for choice in (*inner, *found):  # in order: what follows a tie differs by more than rounding
        is_tied |= _tied(choice, parts, is_tied)
    rows = np.flatnonzero(~is_tied)
    return Golden(
        inputs={name: array[rows] for name, array in golden.inputs.items()},
        outputs={name: array[rows] for name, array in golden.outputs.items()},
        sizes=golden.sizes,
    )


def _joined(one: Golden, other: Golden) -> Golden:
    return Golden(
        inputs={name: np.concatenate([one.inputs[name], other.inputs[name]]) for name in one.inputs},
        outputs={name: np.concatenate([one.outputs[name], other.outputs[name]]) for name in one.outputs},
        sizes=one.sizes,
    )


@contextmanager
def naming_choice(model: ir.Model) -> Iterator[None]:
    """Let a ProofError that is raised within name what the graph chooses inside, by scores that may tie."""
    try:
        yield
    except ProofError as error:
        if "nothing can be proved" not in str(error) or not (inner := inner_choices(model)):
            raise
        raise type(error)(
            f"{error}; {inner[0].op_type} '{inner[0].node}' chooses inside the graph, and where its scores "
            f"are nearly equal, rounding decides: give it --rows whose scores are apart, or {CUT}"
        ) from error


def _parts(shown: ir.Model, golden: Golden, max_rows: int | None) -> list[_Part]:
    truth = graph_truth(shown, {name: array[:1] for name, array in golden.inputs.items()})
    run = load(serialize(shown), optimised=False)
    parts, start = [], 0
    # A graph of one row may have scores without an axis for rows: each call is judged by itself.
    for inputs in batches(golden.inputs, max_rows or golden.num_rows):
        rows = np.arange(start, start := start + len(next(iter(inputs.values()))))
        parts.append(_Part(rows=rows, measured=run(inputs), truth=truth.evaluate(inputs)))
    return parts


def _tied(choice: Choice, parts: Sequence[_Part], is_out: np.ndarray) -> np.ndarray:
    """The rows in which near-equal scores decide; the margin is measured on rows that are not out.

    What NonMaxSuppression chooses is no order along an axis: whether it is the same is measured.
    """
    is_tied = is_out.copy()
    if choice.op_type == "NonMaxSuppression" or is_out.all():
        return is_tied
    (name,) = choice.scores
    errors, ranges = [0.0], [0.0]
    for part in parts:
        size, kept = len(part.rows), ~is_out[part.rows]
        one, other = (of[name].reshape(size, -1)[kept] for of in (part.measured, part.truth))
        if kept.any():
            errors.append(difference(one, other))
            ranges.append(float(np.abs(other).max(initial=0.0)))
    margin = 2 * derived_tolerance(unfolded_error=max(errors), output_range=max(ranges))
    for part in parts:
        found = ties(choice, part.truth[name], margin)
        is_tied[part.rows] |= found.reshape(len(part.rows), -1).any(axis=1)
    return is_tied
