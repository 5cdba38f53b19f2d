"""Fold a source and prove it, for a bundle.

In: a `Source` and its golden rows.  Out: a `Folded`, and the golden rows that it was proved on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from export.bundle.goldens import max_rows_at, without
from export.bundle.half import to_half, weigh
from export.errors import ParityError
from export.fold.gauges.system import Price
from export.fold.proved import FoldOptions, fold_proved, reference_of
from export.graph.edit import batchnorms
from export.graph.file import serialize
from export.graph.memory import rows_at_once
from export.proof.prove import Proof, prove, prove_sizes
from export.proof.steady import decided_rows, unsteady_rows
from export.proof.untied import naming_choice
from export.sources.source import Source
from service.contract.account import FoldAccount
from service.contract.bundle import Golden

ATTEMPTS = 4  # times rows are drawn
LARGEST_UNSTEADY = 0.25  # of the golden rows may be replaced: beyond, it is the net


@dataclass(frozen=True, kw_only=True)
class Folded:
    """What folding and proving made: both graphs, the folded one as it is stored, and what is said of it."""

    before: ir.Model
    after: ir.Model
    stored: bytes
    account: FoldAccount
    proof: Proof


def fold_source(
    source: Source,
    goldens: list[Golden],
    prices: frozenset[Price],
    half: bool,
    seed: int,
    say: Callable[[str], None],
) -> tuple[Folded, list[Golden]]:
    """Fold and prove, and the golden rows that it was proved on.

    Where the first proof fails, rows that the unfolded graph does not keep either are replaced, before any
    BatchNorm is taken back for their sake.
    """
    pixels = (source.pixels.mean, source.pixels.std) if source.pixels is not None else None
    options = FoldOptions(prices=prices, pixels=pixels)
    before = reference_of(source.graph, options)
    unfolded = stored(before, half)
    goldens = _undecided(source, unfolded, goldens, seed, say)
    noises = _noises(source, before, goldens)
    max_rows = [max_rows_at(source, golden) for golden in goldens]
    may_replace = source.sizes is None and pixels is None

    def prove_stored(made: bytes) -> Proof:
        if source.sizes is None:
            return prove(unfolded, made, goldens[0], noises[0], source.max_rows)
        return prove_sizes(unfolded, made, goldens, noises, max_rows)

    def proof_of(graph: ir.Model) -> Proof:
        nonlocal goldens, noises, may_replace
        if half:
            weigh(graph)  # an overflow is named by its layer, before its answers are only "not finite"
        made = stored(graph, half)
        try:
            return prove_stored(made)
        except ParityError:
            if not may_replace:
                raise
            may_replace = False
            dropped = unsteady_rows(unfolded, goldens[0], noises[0], source.max_rows)
            if not 0 < dropped.sum() <= LARGEST_UNSTEADY * len(dropped):
                raise
        say(f"{dropped.sum()} golden rows are replaced: the unfolded graph answers them anyhow")
        goldens = [without(goldens[0], dropped, source, seed + 1, say)]
        noises = _noises(source, before, goldens)
        return prove_stored(made)

    with naming_choice(source.graph):
        after, account, proof = fold_proved(source.graph, options, proof_of)
    assert len(list(batchnorms(after))) == account.declined, "every BatchNorm is accounted for"
    folded = Folded(before=before, after=after, stored=stored(after, half), account=account, proof=proof)
    return folded, goldens


def _undecided(
    source: Source, unfolded: bytes, goldens: list[Golden], seed: int, say: Callable[[str], None]
) -> list[Golden]:
    """The golden rows with others in place of those that a comparison decides otherwise in float32."""
    if source.sizes is not None or source.pixels is not None or source.preprocessing is not None:
        return goldens
    for number in range(1, ATTEMPTS):
        decided = decided_rows(unfolded, goldens[0], source.max_rows)
        if not 0 < decided.sum() <= LARGEST_UNSTEADY * len(decided):
            break
        say(f"{decided.sum()} golden rows are replaced: a comparison decides them otherwise in float32")
        goldens = [without(goldens[0], decided, source, seed + number, say)]
    return goldens


def _noises(source: Source, before: ir.Model, goldens: Sequence[Golden]) -> list[dict[str, float]]:
    if source.graph_truth is None:
        return [{} for _ in goldens]
    truth = replace(source.graph_truth, model=before)
    numbers = [rows_at_once(source.graph, golden.sizes, max_rows_at(source, golden)) for golden in goldens]
    return [
        truth.noise(golden.inputs, golden.outputs, number)
        for golden, number in zip(goldens, numbers, strict=True)
    ]


def stored(graph: ir.Model, half: bool) -> bytes:
    """The graph as a bundle holds it, its weights in float16 where `half`."""
    return to_half(serialize(graph)) if half else serialize(graph)
