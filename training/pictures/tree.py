"""Which pictures a folder holds, and of which class each is.

In: a folder.  Out: its halves, its classes, and every picture in a fixed order, one after the other.

    PATH/CLASS/…/PICTURE                      not split yet
    PATH/train/CLASS/…   PATH/val/CLASS/…     two halves; the second is val, valid, validation or else test

Nothing is held in memory but the names in one folder: all of them may have millions.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from training.errors import DataError
from training.pictures.formats import SUFFIXES

TRAIN = "train"
HELD_OUT = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Found:
    """One picture: its place below the root, the number of its class and that of its half."""

    name: str
    label: int
    half: int


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A folder of classes; `halves` are the folders below the root that hold them: one, or two."""

    root: Path
    halves: tuple[str, ...]
    classes: tuple[str, ...]

    def walk(self, at_most: int | None = None) -> Iterator[Found]:
        """Every picture, or `at_most` so many of each class of each half, by their names."""
        for half, folder in enumerate(self.halves):
            for label, class_name in enumerate(self.classes):
                names = _list_pictures(self.root, f"{folder}/{class_name}" if folder else class_name)
                yield from (Found(name, label, half) for name in islice(names, at_most))


def find_tree(root: Path) -> Tree:
    """The halves and classes of `root`; two halves have the same classes."""
    names = _list_folders(root)
    if TRAIN not in names:
        return Tree(root=root, halves=("",), classes=_check_classes(root, names))
    second = next((name for name in HELD_OUT if name in names), None)
    if second is None:
        raise DataError(
            f"{root} has {TRAIN}, but none of {', '.join(HELD_OUT)} beside it; "
            f"to have it split, say folder:{root / TRAIN}"
        )
    classes = _check_classes(root / TRAIN, _list_folders(root / TRAIN))
    alone = set(classes).symmetric_difference(_list_folders(root / second))
    if alone:
        raise DataError(f"class {min(alone)!r} is in only one of {root / TRAIN} and {root / second}")
    return Tree(root=root, halves=(TRAIN, second), classes=classes)


def count_pictures(tree: Tree) -> tuple[int, str]:
    """How many there are, and a digest of what changes when one of them does; every class has some."""
    counts = [[0] * len(tree.classes) for _ in tree.halves]
    digest = hashlib.blake2b(digest_size=20)
    for found in tree.walk():
        counts[found.half][found.label] += 1
        digest.update(describe_file(tree.root, found))
    for half, of_classes in zip(tree.halves, counts, strict=True):
        if 0 in of_classes:
            folder = tree.root / half / tree.classes[of_classes.index(0)]
            raise DataError(f"class folder {folder} holds no picture ({', '.join(SUFFIXES)})")
    return sum(map(sum, counts)), digest.hexdigest()


def describe_file(root: Path, found: Found) -> bytes:
    """Name, class, size and times; the time of the last change cannot be set back by hand."""
    try:
        status = (root / found.name).stat()
        facts = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    except OSError as error:  # a link that leads nowhere: counted with what cannot be read
        facts = str(error.strerror)
    return f"{found.name}\0{found.half} {found.label} {facts}\n".encode(errors="surrogateescape")


def _check_classes(folder: Path, names: list[str]) -> tuple[str, ...]:
    if len(names) < 2:
        got = f"only {names[0]}" if names else "none"
        raise DataError(f"{folder} must hold a folder of pictures for each of at least 2 classes, got {got}")
    for name in names:
        if not name.isprintable():
            raise DataError(f"{folder}: {name!r} cannot be the name of a class")
    return tuple(names)


def _list_folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
            )
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from None


def _list_pictures(root: Path, folder: str) -> Iterator[str]:
    """Names below `root`, sorted; a link to a folder is followed for a class, but not inside it."""
    for here, folders, files in os.walk(root / folder, onerror=_stop):
        folders.sort()
        inside = os.path.relpath(here, root)
        for file in sorted(files):
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                yield f"{inside}/{file}"


def _stop(error: OSError) -> None:
    raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from None
