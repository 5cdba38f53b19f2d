"""The pictures of a folder, decoded once and kept: renewed when stale, checked when opened.

In: a tree of pictures, and what each becomes.  Out: a `Store`, with everything about them but their pixels.

    CACHE/pictures/NAME-…/pixels.u8     (N, C, H, W) uint8, picture after picture, in the tree's order
                          index.npz     for each picture its label, half, digest, Σ k and Σ k² of each channel
                          about.json    what it was made from, and how; what could not be read, and why

Stale is what was made from other files (names, sizes, times), by other settings, or by another Pillow.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from filelock import FileLock

from service.contract.arrays import read_arrays
from service.contract.target import Target
from training.errors import DataError
from training.files import OutputError
from training.pictures.digest import DIGEST_SIZE, digest_pixels
from training.pictures.make import ABOUT, INDEX, PIXELS, Skipped, describe_skipped, make_store
from training.pictures.tree import Tree, count_pictures

FORMAT = "foldserve pictures 1"
ROWS_TO_CHECK = 64


@dataclass(frozen=True, kw_only=True)
class Store:
    """N pictures: `labels`, `halves` and `digests` (N,), `sums` (N, 2, C); rows of `skipped` hold nothing."""

    folder: Path
    target: Target
    labels: np.ndarray
    halves: np.ndarray
    digests: np.ndarray
    sums: np.ndarray
    skipped: Skipped

    @property
    def pixels(self) -> Path:
        """The file of (N, C, H, W) uint8."""
        return self.folder / PIXELS

    @property
    def was_read(self) -> np.ndarray:
        """Which rows hold a picture (N, bool)."""
        was_read = np.ones(len(self.labels), bool)
        was_read[list(self.skipped)] = False
        return was_read


def open_store(tree: Tree, target: Target, cache: Path, max_corrupt_share: float) -> Store:
    """The store of `tree` below `cache`, made now if need be; several processes may ask at once.

    Raises DataError if more than `max_corrupt_share` of the pictures cannot be read; what could be is kept.
    """
    num_pictures, files = count_pictures(tree)
    root = tree.root.resolve()
    key = tree.key
    about = {
        "format": FORMAT,
        "pillow": PIL.__version__,
        "root": key,
        "files": files,
        "target": json.loads(target.to_json()),
    }
    place = hashlib.blake2b(json.dumps([key, about["target"]]).encode(), digest_size=8).hexdigest()
    folder = cache / "pictures" / f"{root.name}-{place}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            store = _read(folder, target, about)
            if store is None:
                make_store(folder, tree, target, about, num_pictures)
                store = _read(folder, target, about)
    except OSError as error:
        raise OutputError(
            f"cannot keep the decoded pictures in {folder}: {error.strerror or error}"
        ) from None
    if store is None:
        raise DataError(f"{folder} does not hold what was just written to it")
    if len(store.skipped) > max_corrupt_share * num_pictures:
        raise DataError(
            f"{describe_skipped(root, store.skipped, num_pictures)}; more than "
            f"max_corrupt_share={max_corrupt_share:g}"
        )
    return store


def _read(folder: Path, target: Target, about: dict[str, Any]) -> Store | None:
    """The store in `folder`, or None if there is none that is whole and fresh."""
    try:
        record = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        skipped = {
            int(row): (str(name), str(reason)) for row, (name, reason) in record.pop("skipped").items()
        }
        with (folder / INDEX).open("rb") as file:
            store = Store(folder=folder, target=target, skipped=skipped, **read_arrays(file))
        return store if record == about and _is_whole(store) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, EOFError):
        return None


def _is_whole(store: Store) -> bool:
    """Whether the file has its size, and some rows still the pixels that were decoded."""
    size = int(np.prod(store.target.shape))
    if store.pixels.stat().st_size != len(store.labels) * size:
        return False
    rows = np.flatnonzero(store.was_read)
    with store.pixels.open("rb") as file:
        for row in rows[:: max(len(rows) // ROWS_TO_CHECK, 1)].tolist():
            file.seek(row * size)
            if digest_pixels(file.read(size)) != bytes(store.digests[row]).ljust(DIGEST_SIZE, b"\0"):
                return False
    return True
