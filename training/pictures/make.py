"""Decode every picture of a tree into one file: written aside, flushed to the disk, renamed.

In: a tree, what each picture becomes, and where.  Out: the three files of a store, or none.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from service.contract.files import aside, sync
from service.contract.target import Target
from training.console import show_progress
from training.errors import DataError
from training.files import OutputError
from training.pictures.digest import DIGEST_SIZE
from training.pictures.tree import Tree, describe_file
from training.pictures.workers import Work, decode_all

PIXELS, INDEX, ABOUT = "pixels.u8", "index.npz", "about.json"
ROWS_OF_WORK = 32
NUM_NAMED = 3

Skipped = dict[int, tuple[str, str]]
"""Row → name and reason."""


def make_store(folder: Path, tree: Tree, target: Target, about: dict[str, Any], num_pictures: int) -> None:
    """Put a new store at `folder`, in place of any that is there."""
    with aside(folder) as new:
        new.mkdir()
        needed, free = num_pictures * int(np.prod(target.shape)), shutil.disk_usage(new).free
        if needed > free:
            raise OutputError(
                f"the decoded pictures of {tree.root} need {needed:,} bytes, {folder.parent} has {free:,}: "
                f"set TRAINING_CACHE to another folder, or choose a smaller size"
            )
        with (new / PIXELS).open("wb") as file:
            file.truncate(needed)
        index, skipped = _decode(tree, target, new / PIXELS, about["files"], num_pictures)
        np.savez(new / INDEX, allow_pickle=False, **index)
        (new / ABOUT).write_text(json.dumps({**about, "skipped": skipped}, indent=1), encoding="utf-8")
        for name in (PIXELS, INDEX, ABOUT):
            sync(new / name)
        shutil.rmtree(folder, ignore_errors=True)  # a rename replaces no folder that holds something
        new.replace(folder)


def describe_skipped(root: Path, skipped: Skipped, num_pictures: int) -> str:
    """How many could not be read, and the first of them by name."""
    named = [f"{name} ({reason})" for name, reason in islice(skipped.values(), NUM_NAMED)]
    more = f" and {len(skipped) - NUM_NAMED} more" if len(skipped) > NUM_NAMED else ""
    share = len(skipped) / num_pictures
    return f"{len(skipped)} of {num_pictures} pictures ({share:.2%}) of {root} cannot be read: " + (
        f"{', '.join(named)}{more}"
    )


def _decode(
    tree: Tree, target: Target, pixels: Path, files: str, num_pictures: int
) -> tuple[dict[str, np.ndarray], Skipped]:
    """Fill `pixels`; returns the arrays of the index, and what could not be read."""
    index: dict[str, np.ndarray] = {
        "labels": np.zeros(num_pictures, np.int64),
        "halves": np.zeros(num_pictures, np.int8),
        "digests": np.zeros(num_pictures, f"S{DIGEST_SIZE}"),
        "sums": np.zeros((num_pictures, 2, target.shape[0]), np.int64),
    }
    skipped: Skipped = {}
    digest = hashlib.blake2b(digest_size=20)
    changed = DataError(f"{tree.root} changed while its pictures were being decoded")

    def plan() -> Iterator[Work]:
        rows = enumerate(tree.walk())
        while piece := list(islice(rows, ROWS_OF_WORK)):
            if piece[-1][0] >= num_pictures:
                raise changed
            for row, found in piece:
                digest.update(describe_file(tree.root, found))
                index["labels"][row], index["halves"][row] = found.label, found.half
            names = tuple(found.name for _, found in piece)
            yield Work(root=tree.root, names=names, first_row=piece[0][0], pixels=pixels, target=target)

    num_workers = min(len(os.sched_getaffinity(0)), -(-num_pictures // ROWS_OF_WORK))
    what = f"decoding {num_pictures:,} pictures of {tree.root}, once for all runs"
    with show_progress(what, num_pictures) as advance:
        for done in decode_all(plan(), num_workers):
            first, names = done.work.first_row, done.work.names
            index["digests"][first : first + len(names)] = done.digests
            index["sums"][first : first + len(names)] = done.sums
            skipped |= {first + row: (names[row], reason) for row, reason in done.reasons.items()}
            advance(len(names))
    if digest.hexdigest() != files:
        raise changed
    return index, skipped
