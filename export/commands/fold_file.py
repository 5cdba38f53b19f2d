"""Fold an ONNX file into another: IN.onnx → OUT.onnx, proved on random rows before it appears.

In: the paths.  Out: the account of every BatchNorm.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir

from export.bundle.pack import write_whole
from export.compute.rows import read_rows, some_rows
from export.compute.truth import graph_truth
from export.errors import SourceError, naming
from export.fold.proved import FoldOptions, fold_once, fold_proved, reference_of
from export.graph.edit import batchnorms
from export.graph.file import external_files, load_graph, serialize
from export.graph.given import Shapes, with_sizes
from export.graph.prepare import prepare
from export.proof.choices import choices, showing_scores
from export.proof.prove import prove_once
from export.proof.reading import prove_reading
from export.sources.open_sizes import golden_sizes
from service.contract.account import FoldAccount
from service.contract.sizes import Sizes


def fold_file(
    source: Path,
    target: Path,
    *,
    report: Path | None,
    seed: int,
    say: Callable[[str], None],
    note: Callable[[str], None],
    options: FoldOptions,
    shapes: Shapes | None = None,
    rows_file: Path | None = None,
) -> FoldAccount:
    """Fold, and write the account to `report`; on any error, both files are as they were.

    `shapes` fixes open sizes of the inputs, in OUT.onnx too; a size that is given a range stays open, and the
    proof is at several sizes of it.  `rows_file` holds rows for the proof where noise does not fit.
    `say` is a callback, given what is being done; `note` another, given what a user should know of the proof.
    """
    loaded = load_graph(source)
    unfolded, ranges = with_sizes(prepare(loaded), shapes or {})
    sizes: Sequence[Sizes] = golden_sizes(unfolded, ranges, None) if ranges else ()
    _check_targets(source, [target, *([report] if report else [])])
    if not any(batchnorms(unfolded)) and options.pixels is None:
        _, done = fold_once(unfolded, options)
        if not done.per_channel_folded:
            # As it is in the file: what nothing was done to needs no proof, which takes most of the time.
            note(f"nothing to fold: 0 BatchNormalization, {len(done.per_channel)} per-channel Mul/Add")
            return _written(target, with_sizes(loaded, shapes or {})[0], report, done)
    given = None if rows_file is None else read_rows(rows_file, unfolded)
    prove_reading(source, unfolded, seed, given, sizes)
    reference = reference_of(unfolded, options)
    say("folding, and proving the folded graph on random rows")
    chosen = choices(reference)
    shown = showing_scores(reference, chosen)
    rows = [some_rows(reference, given, seed, at) for at in sizes or ({},)]
    truth, before = graph_truth(shown, rows[0]), serialize(shown)
    answers = [truth.evaluate(inputs) for inputs in rows]
    noises = [truth.noise(*of_size) for of_size in zip(rows, answers, strict=True)]
    if not truth.is_exact:
        note(f"proved against {truth.words}")
    for choice in chosen:
        note(f"'{choice.output}' is chosen by {choice.op_type} '{choice.node}': its scores are proved")

    def prove(graph: ir.Model) -> None:
        after = serialize(showing_scores(graph, chosen))
        for at, inputs, truths, noise in zip(sizes or ({},), rows, answers, noises, strict=True):
            with naming(at):
                prove_once(before, after, inputs, truths, noise, chosen)

    folded, done, _ = fold_proved(unfolded, options, prove)
    return _written(target, folded, report, done)


def _written(target: Path, graph: ir.Model, report: Path | None, done: FoldAccount) -> FoldAccount:
    files = {target: serialize(graph)}
    if report is not None:
        files[report] = done.model_dump_json(indent=2).encode() + b"\n"
    write_whole(files)
    return done


def _check_targets(source: Path, targets: list[Path]) -> None:
    """Nothing that is written may be IN.onnx, its external weights, or the other file."""
    kept = {source.resolve(): source, **{path.resolve(): path for path in external_files(source)}}
    for target in targets:
        try:
            is_kept = target.resolve() in kept or any(
                target.exists() and path.exists() and target.samefile(path) for path in kept
            )
        except OSError as error:
            raise SourceError(f"{target}: cannot be written: {error.strerror}") from error
        if is_kept:
            raise SourceError(f"{target}: IN.onnx is never modified, and each file needs a name of its own")
        kept[target.resolve()] = target
