"""Fold a SOURCE, proved on random rows: what `fold` writes, and what `verify` reports of a source.

In: SOURCE as typed.  Out: a `Folding`, or an ExportError.

The truth of an ONNX file is its unfolded graph; the truth of a net is the net itself, in torch and float64.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.compute.reference import Arrays, Evaluate
from export.compute.rows import read_rows, some_rows
from export.compute.truth import GraphTruth, graph_truth
from export.errors import ExportError, SourceError, is_unprovable, naming, suggesting_values
from export.fold.pixels import as_rows
from export.fold.proved import FoldOptions, fold_once, fold_proved, reference_of
from export.graph.edit import batchnorms
from export.graph.file import read_file, serialize
from export.graph.given import Shapes, with_sizes, with_values
from export.graph.prepare import prepare
from export.graph.rows_first import Arrangement
from export.proof.choices import choices, showing_scores
from export.proof.prove import prove_once
from export.proof.reading import prove_reading
from export.proof.truth import check_repeats
from export.proof.untied import naming_choice
from export.sources.open_sizes import golden_sizes
from export.sources.opening import is_onnx_file, open_source
from export.sources.source import SourceOptions
from service.contract.account import FoldAccount
from service.contract.sizes import Sizes
from service.contract.tolerances import Tolerance

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be folded, and how.

    Args:
        shapes: sizes that the source leaves open; one that is given a range stays open, and the proof is at
            several sizes of it.
        types: of a net's inputs, by name.
        values: of inputs that become constants of the graph.
        rows: a file of rows for the proof, where noise does not fit.
        seed: of the noise.
        no_proof: fold also where nothing can be proved.
    """

    source: str
    options: FoldOptions
    shapes: Shapes = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    rows: Path | None = None
    weights: Path | None = None
    seed: int = 0
    no_proof: bool = False


@dataclass(frozen=True, kw_only=True)
class Folding:
    """A folded graph; `tolerances` of each output with what was measured, None where nothing was proved.

    `file` holds the same graph, where nothing was done to it.
    """

    graph: ir.Model
    account: FoldAccount
    tolerances: dict[str, Tolerance] | None
    file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class _Unfolded:
    """An unfolded graph, and what makes it as it was read; `evaluate` is a net's own, None of a file.

    `file` holds the graph as it was read, where it is so in one file; `words` say what was changed in it.
    """

    model: ir.Model
    as_read: Callable[[], ir.Model]
    file: Path | None = None
    words: Sequence[str] = ()
    sizes: Sequence[Sizes] = ()
    given: Arrays | None = None
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    evaluate: Evaluate | None = None


def fold_source(asked: Asked, say: Say, note: Say, *, prove_untouched: bool = False) -> Folding:
    """Fold SOURCE, and prove it.

    Where there is nothing to fold, the graph is returned as it was read; only if `prove_untouched` is it
    proved.  `say` is a callback, given what is being done; `note` another, given what a user should know of
    the proof.  Raises ExportError.
    """
    try:
        return _fold(asked, say, note, prove_untouched)
    except ExportError as error:
        runs = "nothing can be proved" in str(error)
        if not (is_unprovable(error) and (asked.no_proof or runs)):
            raise
        unfolded = _open(asked, must_run=False)
        folded, account = fold_once(unfolded.model, asked.options)
        if runs and not prove_untouched and _is_untouched(account, asked.options):
            note("nothing folds, so the graph stays as it is")
            return _as_read(unfolded, account)
        if not asked.no_proof:
            raise
        note(f"unproved: {error}")
    return Folding(graph=folded, account=account, tolerances=None)


def _is_untouched(account: FoldAccount, options: FoldOptions) -> bool:
    """Whether a fold did nothing: what is as it was needs no proof."""
    return not (account.folded or account.reduced or account.per_channel_folded or options.pixels)


def _as_read(unfolded: _Unfolded, account: FoldAccount) -> Folding:
    return Folding(graph=unfolded.as_read(), account=account, tolerances=None, file=unfolded.file)


def _fold(asked: Asked, say: Say, note: Say, prove_untouched: bool) -> Folding:
    unfolded = _open(asked)
    model, options = unfolded.model, asked.options
    for words in unfolded.words:
        note(words)
    if not (prove_untouched or any(batchnorms(model)) or options.pixels is not None):
        _, done = fold_once(model, options)
        # A BatchNorm that never runs, as in an If of one answer, is in the file and not in `model`.
        if not done.per_channel_folded and not any(batchnorms(unfolded.as_read())):
            # As it is in the file: what nothing was done to needs no proof, which takes most of the time.
            note(f"nothing to fold: 0 BatchNormalization, {len(done.per_channel)} per-channel Mul/Add")
            return _as_read(unfolded, done)
    read: GraphTruth | None = None
    numbers = [
        value.name or "" for value in model.graph.inputs if value.shape is not None and not value.shape
    ]
    with suggesting_values(numbers):
        if unfolded.evaluate is None:
            fed = Arrangement(values=unfolded.values)
            read = prove_reading(Path(asked.source), model, asked.seed, unfolded.given, unfolded.sizes, fed)
        say("folding, and proving the folded graph on random rows")
        with naming_choice(model):
            folded, account, tolerances = fold_proved(model, options, _proof(unfolded, asked, note, read))
    return Folding(graph=folded, account=account, tolerances=tolerances)


def _open(asked: Asked, *, must_run: bool = True) -> _Unfolded:
    if not is_onnx_file(asked.source):
        said = SourceOptions(
            shapes=asked.shapes,
            types=asked.types,
            values=asked.values,
            rows=asked.rows,
            weights=asked.weights,
        )
        source = open_source(asked.source, said)
        return _Unfolded(
            model=source.graph,
            as_read=lambda: source.graph,
            words=source.words,
            given=source.given,
            evaluate=source.evaluate,
        )
    if asked.weights is not None:
        raise SourceError(f"{asked.source} is an ONNX file: it brings its own weights")
    if asked.types:
        raise SourceError(
            f"{asked.source} is an ONNX file: it says the types of its inputs, leave out --input-type"
        )
    path = Path(asked.source)
    read = read_file(path, must_run=must_run)
    loaded, values = with_values(read.model, asked.values)
    sized, ranges = with_sizes(loaded, asked.shapes)
    model = prepare(sized)
    return _Unfolded(
        model=model,
        as_read=lambda: with_sizes(loaded, asked.shapes, keep_stated=True)[0],
        file=path if read.is_whole and not (asked.values or asked.shapes) else None,
        words=read.words,
        sizes=golden_sizes(model, ranges, None) if ranges else (),
        given=None if asked.rows is None else read_rows(asked.rows, model),
        values=values,
    )


def _proof(
    unfolded: _Unfolded, asked: Asked, note: Say, read: GraphTruth | None
) -> Callable[[ir.Model], dict[str, Tolerance]]:
    """What proves a folded graph, and returns the widest tolerance of each output over all sizes.

    `read` is the truth that the reading of a file was proved against.
    """
    reference, places = reference_of(unfolded.model, asked.options), unfolded.sizes or ({},)
    chosen = choices(reference)
    shown = showing_scores(reference, chosen)
    rows = [some_rows(reference, unfolded.given, asked.seed, at) for at in places]
    if read is not None and reference is unfolded.model:
        truth = read
    elif unfolded.evaluate is None or chosen:  # a net does not tell the scores that its choices are made by
        truth = graph_truth(shown, rows[0])
    else:
        evaluate = _of_pixels(unfolded.evaluate, asked.options)
        check_repeats(evaluate, rows[0])
        truth = GraphTruth(model=shown, evaluate=evaluate, words="the net", is_exact=True)
    before = serialize(shown)
    answers = [truth.evaluate(inputs) for inputs in rows]
    noises = [truth.noise(*of_size) for of_size in zip(rows, answers, strict=True)]
    if not truth.is_exact:
        note(f"proved against {truth.words}")
    for choice in chosen:
        note(f"'{choice.output}' is chosen by {choice.op_type} '{choice.node}': its scores are proved")

    def prove(graph: ir.Model) -> dict[str, Tolerance]:
        after, widest = serialize(showing_scores(graph, chosen)), dict[str, Tolerance]()
        for at, inputs, truths, noise in zip(places, rows, answers, noises, strict=True):
            with naming(at):
                for name, found in prove_once(before, after, inputs, truths, noise, chosen).items():
                    widest[name] = max(found, widest.get(name, found), key=lambda one: one.max_abs)
        return widest

    return prove


def _of_pixels(evaluate: Evaluate, options: FoldOptions) -> Evaluate:
    """The same function of uint8 pixels as its first input, where the folded graph is to take those."""
    if options.pixels is None:
        return evaluate
    mean, std = options.pixels

    def evaluate_pixels(pixels: Mapping[str, np.ndarray]) -> Arrays:
        first = next(iter(pixels))
        return evaluate({**pixels, first: as_rows(pixels[first], mean, std)})

    return evaluate_pixels
