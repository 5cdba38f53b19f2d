"""The pictures to evaluate on.

In: what was opened, and a data set's name if any.  Out: pixels as the net takes them, labels by the net's own
classes, and the name of each picture.

    no name, or the run's own data      its held-out half
    a data set with halves              the held-out one
    a folder, table or archive without  all of it: nothing of it was trained on
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.data import DataFacts, Pixels, Split, StreamedPixels, load_split
from training.data.sets.download import find_cache
from training.evaluation.answering import Answering, EvaluationError

# As for training: more than this is no test set, but a folder of something else.
MAX_CORRUPT_SHARE = 0.01
MAX_PIXELS = 40_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class TestSet:
    """`name_rows` gives the file of each of some rows, or their numbers."""

    __test__ = False  # for pytest, which takes the name for a test's

    name: str
    pixels: Pixels
    labels: Tensor
    name_rows: Callable[[Sequence[int]], list[str]]
    notes: tuple[str, ...] = ()


def load_test_set(answering: Answering, data: str | None, settings: Mapping[str, str]) -> TestSet:
    """Load and check; raises EvaluationError or DataError."""
    own, own_settings = answering.config.get("data"), answering.config.get("data_settings", {})
    if data is None and own is None:
        raise EvaluationError(f"{answering.where} does not say which data it is for: add --data")
    name = data or str(own)
    if name == own and settings in ({}, own_settings):
        return _held_out(load_split(name, own_settings), answering.facts)
    if name.partition(":")[0] in ("folder", "table"):
        return _of_files(name, settings, answering)
    split = load_split(name, settings)
    # What a net was trained on is no test set; a bundle or a calibrated checkpoint knows only its name.
    is_whole = split.is_divided_here and ":" in name and split.facts.name != answering.trained_on
    return _held_out(_whole(split) if is_whole else split, answering.facts)


def _held_out(split: Split, facts: DataFacts) -> TestSet:
    if split.facts.input_shape != facts.input_shape:
        raise EvaluationError(
            f"the pictures of {split.facts.name} are {split.facts.input_shape}, the net takes "
            f"{facts.input_shape}"
        )
    name_files = split.name_held_out
    return TestSet(
        name=split.facts.name,
        pixels=split.held_out_pixels,
        labels=_by_own_classes(split.held_out_labels, split.facts.labels, facts, split.facts.name),
        name_rows=name_files or (lambda rows: [f"row {row}" for row in rows]),
        notes=split.notes,
    )


def _whole(split: Split) -> Split:
    halves = (split.train_pixels, split.held_out_pixels)
    pixels = torch.cat([half[torch.arange(len(half))] for half in halves])
    labels = torch.cat([split.train_labels, split.held_out_labels])
    return replace(split, held_out_pixels=pixels, held_out_labels=labels, name_held_out=None)


def _of_files(name: str, settings: Mapping[str, str], answering: Answering) -> TestSet:
    """The second half of a folder or table, or all of it if it has one; decoded as the net takes pictures."""
    from training.data.divide import choose_held_out
    from training.data.sets.folder import name_rows
    from training.pictures.make import describe_skipped
    from training.pictures.store import open_store
    from training.pictures.table import find_table
    from training.pictures.tree import find_tree

    facts = answering.facts
    if settings:
        raise EvaluationError(f"size and mode are the net's, so --data-setting is not for {name}")
    kind, _, where = name.partition(":")
    path = Path(where).expanduser()
    tree = find_table(path) if kind == "table" else find_tree(path)
    target = answering.target(MAX_PIXELS)
    store = open_store(tree, target, find_cache(), MAX_CORRUPT_SHARE)
    rows = np.flatnonzero(store.was_read & (store.halves == len(tree.halves) - 1))
    if len(tree.halves) == 1 and tree.name == answering.trained_on:
        held_out = choose_held_out(tree.name, store.digests[rows], store.labels[rows], list(tree.classes))
        rows = rows[held_out]
    skipped = describe_skipped(tree.root, store.skipped, len(store.labels)) if store.skipped else ""
    return TestSet(
        name=tree.name,
        pixels=StreamedPixels(store.pixels, torch.from_numpy(rows), target.shape),
        labels=_by_own_classes(torch.from_numpy(store.labels[rows]), tree.classes, facts, tree.name),
        name_rows=lambda numbers: name_rows(tree, rows[list(numbers)].tolist()),
        notes=(*tree.notes, *([f"{skipped}; skipped"] if skipped else [])),
    )


def _by_own_classes(labels: Tensor, names: Sequence[str], facts: DataFacts, where: str) -> Tensor:
    """The same labels as numbers of the net's classes; EvaluationError for a class that it does not know."""
    unknown = [name for name in names if name not in facts.labels]
    if unknown:
        known = ", ".join(facts.labels[:5]) + (" …" if len(facts.labels) > 5 else "")
        raise EvaluationError(f"{where} has a class {unknown[0]!r}, the net knows {known}")
    return torch.tensor([facts.labels.index(name) for name in names])[labels.cpu()]
