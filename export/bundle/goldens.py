"""The golden rows of a source and their true answers, at each golden size where sizes are open.

In: a `Source`.  Out: a `Golden` for each size; one where all sizes are fixed.

At a size there are as many rows as 1 GiB of float64 and 64 MiB of golden.npz hold, from 1 to 8; the smallest
size has what is missing to 32.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from export.compute.comparable import why_rows_depend
from export.compute.rows import resized
from export.errors import ProofError, naming
from export.graph.memory import rows_at_once, rows_that_fit
from export.graph.prepare import ROWS
from export.proof.choices import choices, inner_choices
from export.proof.golden import blended_inputs, golden_inputs
from export.proof.truth import true_answers
from export.proof.untied import untied
from export.sources.source import Source
from service.contract.bundle import Golden
from service.contract.manifest import MIN_GOLDEN_ROWS
from service.contract.sizes import Sizes, described, max_rows_of

if TYPE_CHECKING:  # it needs Pillow
    from export.proof.pictures import PictureProof

SPARE_ROWS = 16  # zeros and other made rows are likelier to make scores tie
ROWS_AT_A_SIZE = 8
TOGETHER = 4  # times the rows that fit in the memory of a proof: more take minutes, and show nothing new
ATTEMPTS = 4  # times rows are drawn in place of those that have no finite answer
LARGEST_VOID = 0.5  # of the rows
STORED_BYTES = 64 << 20  # of the rows of one size, before they are compressed

Say = Callable[[str], None]


def make_goldens(source: Source, seed: int, say: Say, pictures: "PictureProof | None") -> list[Golden]:
    """The golden rows of each golden size, ascending, without those that near-equal scores decide.

    Raises ProofError that names the size at which the net fails.
    """
    if source.sizes is None:
        golden = _answered(source, make_golden(source, seed, say, pictures), seed, say, pictures)
        if source.pixels is not None:
            return [golden]

        def more(number: int) -> Golden:
            return make_golden(source, seed + number, say)

        return [untied(source.graph, golden, max_rows=source.max_rows, more=more)]
    numbers = [_num_rows(source, sizes) for sizes in source.sizes.golden]
    numbers[0] += max(0, MIN_GOLDEN_ROWS - sum(numbers))
    goldens = []
    for place, (sizes, num_rows) in enumerate(zip(source.sizes.golden, numbers, strict=True)):
        own = pictures if pictures is not None and _are_of(source, pictures, sizes) else None
        with naming(sizes):
            golden = make_golden(source, seed + place, say, own, sizes, num_rows)
            if source.pixels is None:
                golden = untied(source.graph, golden, num_rows, max_rows_at(source, golden))
            goldens.append(golden)
    return goldens


def make_golden(
    source: Source,
    seed: int,
    say: Say,
    pictures: "PictureProof | None" = None,
    sizes: Sizes | None = None,
    num_rows: int = MIN_GOLDEN_ROWS,
    *,
    are_kept: bool = True,
) -> Golden:
    """`num_rows` golden rows, of these sizes where they are open, and their true answers.

    Rows that are given are among them, if `are_kept`.
    """
    sizes = sizes or {}
    spare = SPARE_ROWS if choices(source.graph) or inner_choices(source.graph) else 0
    if source.given is not None:
        given = resized(source.graph, source.given, sizes)
        inputs = blended_inputs(given, seed, spare, num_rows, are_kept=are_kept)
    else:
        specs = [spec.at(sizes) for spec in source.inputs]
        inputs = golden_inputs(specs, source.held_out, seed, spare, num_rows)
    if pictures is not None:  # first, so that no later step moves them
        (name,) = inputs
        inputs = {name: np.concatenate([pictures.rows, inputs[name]])}
    whole = len(next(iter(inputs.values())))
    at = f" at {described(sizes)}" if sizes else ""
    say(f"computing {whole} golden answers{at}: {source.truth}")
    fitting = rows_at_once(source.graph, sizes)
    # torch and ONNX Runtime have threads of their own; ONNX's reference has none.
    is_reference = source.graph_truth is not None and source.graph_truth.is_exact
    try:
        outputs = true_answers(
            source.evaluate,
            inputs,
            lambda row: say(f"golden answer {row} of {whole}{at}: {source.truth}"),
            is_exact=source.graph_truth is None or source.graph_truth.is_exact,
            max_rows=min(fitting, source.max_rows or fitting),
            max_together=TOGETHER * fitting,
            num_threads=min(fitting, len(os.sched_getaffinity(0))) if is_reference else 1,
        )
    except ProofError as error:
        raise ProofError(f"{error}{why_rows_depend(source.graph)}") from error
    return Golden(
        inputs=inputs, outputs={spec.name: outputs[spec.name] for spec in source.outputs}, sizes=sizes
    )


def without(golden: Golden, is_dropped: np.ndarray, source: Source, seed: int, say: Say) -> Golden:
    """As many rows, with new ones of noise, or mixtures, in place of those that are dropped."""
    more = make_golden(source, seed, say, num_rows=max(int(is_dropped.sum()), 1), are_kept=False)

    def joined(old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([old[name][~is_dropped], new[name]]) for name in old}

    return Golden(inputs=joined(golden.inputs, more.inputs), outputs=joined(golden.outputs, more.outputs))


def _answered(source: Source, golden: Golden, seed: int, say: Say, pictures: "PictureProof | None") -> Golden:
    """The golden rows with others in place of made ones that the net has no finite answer to.

    A mask of ones alone hides all that a softmax is of.  Where that is most rows, the net is not made for
    such rows at all: they stay, and the proof says so.  Rows that are given stay too.
    """
    for number in range(1, ATTEMPTS):
        is_void = np.zeros(golden.num_rows, dtype=bool)
        for answers in golden.outputs.values():
            is_void |= ~np.isfinite(answers.reshape(golden.num_rows, -1)).all(axis=1)
        is_void[: 0 if pictures is None else len(pictures.rows)] = False
        if source.given is not None or not 0 < is_void.sum() <= LARGEST_VOID * golden.num_rows:
            break
        say(f"{is_void.sum()} golden rows are replaced: the net's answers to them are not finite")
        golden = without(golden, is_void, source, seed + number, say)
    return golden


def as_answered(source: Source, goldens: Sequence[Golden]) -> Source:
    """The source with the sizes that its outputs really have: ONNX Runtime runs files that declare others."""
    found = {name: list(array.shape[1:]) for name, array in goldens[0].outputs.items()}
    if source.sizes is not None or all(spec.shape[1:] == found[spec.name] for spec in source.outputs):
        return source
    graph = source.graph.clone()
    for value in graph.graph.outputs:
        value.shape = ir.Shape([value.shape[0] if value.shape else ROWS, *found[value.name or ""]])
    outputs = [spec.model_copy(update={"shape": [None, *found[spec.name]]}) for spec in source.outputs]
    return replace(source, graph=graph, outputs=outputs)


def max_rows_at(source: Source, golden: Golden) -> int | None:
    """The maximum of a batch of rows as large as these, as the manifest's reader has it."""
    if source.sizes is None:
        return source.max_rows
    return max_rows_of(sum(array[0].nbytes for array in golden.inputs.values()), source.max_rows)


def _num_rows(source: Source, sizes: Sizes) -> int:
    assert source.sizes is not None
    largest = {name: held.maximum for name, held in source.sizes.ranges.items()}
    specs = [spec.at({**largest, **sizes}) for spec in (*source.inputs, *source.outputs)]
    stored = sum(8 * prod(spec.row_shape) for spec in specs)
    fitting = min(rows_that_fit(source.graph, sizes), STORED_BYTES // max(stored, 1))
    return max(1, min(ROWS_AT_A_SIZE, fitting))


def _are_of(source: Source, pictures: "PictureProof", sizes: Sizes) -> bool:
    return source.inputs[0].sizes_of(pictures.rows.shape[1:]) == sizes
