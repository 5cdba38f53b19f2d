"""Fold an ONNX file into another: IN.onnx → OUT.onnx, proved on random rows before it appears.

In: the paths.  Out: the account of every BatchNorm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.errors import SourceError
from export.folds import FREE, Price, account, fold
from export.graph import external_files, load_graph, prepare, serialize
from export.pack import write_whole
from export.pixels import fold_pixels, taking_pixels
from export.prove import prove_once
from export.reading import prove_reading, random_rows
from export.truth import graph_evaluator
from service.manifest import FoldAccount


@dataclass(frozen=True, kw_only=True)
class FoldOptions:
    """What may be paid, and how uint8 pixels become the graph's input if they are to be taken instead."""

    prices: frozenset[Price] = FREE
    pixels: tuple[Sequence[float], Sequence[float]] | None = None


def fold_file(
    source: Path,
    target: Path,
    *,
    report: Path | None,
    seed: int,
    say: Callable[[str], None],
    options: FoldOptions = FoldOptions(),
) -> FoldAccount:
    """Fold, and write the account to `report`; on any error, both files are as they were."""
    unfolded = prepare(load_graph(source))
    _check_targets(source, [target, *([report] if report else [])])
    prove_reading(source, unfolded, seed)
    if options.pixels is None:
        folded, sites = fold(unfolded, options.prices)
    else:
        folded, sites = fold_pixels(unfolded, options.prices, *options.pixels)
        unfolded = taking_pixels(unfolded, *options.pixels)
    if sites or options.pixels:
        say("proving the folded graph on random rows")
        rows = random_rows(unfolded, np.random.default_rng(seed))
        prove_once(serialize(unfolded), serialize(folded), rows, graph_evaluator(unfolded)(rows))
    files = {target: serialize(folded)}
    if report is not None:
        files[report] = account(sites).model_dump_json(indent=2).encode() + b"\n"
    write_whole(files)
    return account(sites)


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
