"""Which pictures a folder holds, and of which class each is.

In: a folder.  Out: its halves, its classes, and every picture in a fixed order, one after the other.

    PATH/CLASS/…/PICTURE                      not split yet
    PATH/train/CLASS/…   PATH/val/CLASS/…     two halves; the first may be called training, the second val,
                                              valid, validation, dev, test or testing, in capitals too

Nothing is held in memory but the names in one folder: all of them may have millions.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from training.errors import DataError
from training.pictures.formats import SUFFIXES, is_picture

TRAIN = ("train", "training")
HELD_OUT = ("val", "valid", "validation", "dev", "test", "testing")
# What archivers and file managers leave beside the classes.
NO_CLASSES = ("__MACOSX",)
NUM_NAMED = 3
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


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
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the data set."""
        return f"folder:{self.root.resolve().name}"

    @property
    def key(self) -> str:
        """What tells this tree from all others on this machine."""
        return str(self.root.resolve())

    def walk(self, at_most: int | None = None) -> Iterator[Found]:
        """Every picture, or `at_most` so many of each class of each half, by their names."""
        for half, label, folder in self._folders():
            pictures = (name for name, is_used in _list_files(self.root, folder) if is_used)
            yield from (Found(name, label, half) for name in islice(pictures, at_most))

    def count_unused(self) -> Counter[str]:
        """How many files of the classes are no pictures, by their suffix; hidden ones do not count."""
        unused: Counter[str] = Counter()
        for _, _, folder in self._folders():
            kinds = (Path(name).suffix for name, is_used in _list_files(self.root, folder) if not is_used)
            unused.update(kind.lower() or "without a suffix" for kind in kinds)
        return unused

    def _folders(self) -> Iterator[tuple[int, int, str]]:
        """Half, label and place below the root of every folder of pictures."""
        for half, folder in enumerate(self.halves):
            for label, class_name in enumerate(self.classes):
                yield half, label, f"{folder}/{class_name}" if folder else class_name


def find_tree(root: Path, min_pictures: int = 0) -> Tree:
    """The halves and classes of `root`; two halves have the same classes.

    Classes with fewer than `min_pictures` pictures, in either half, are left out and noted.
    """
    names = _list_folders(root)
    train = find_half(names, TRAIN)
    # Without folders in it, it is a class of its own: of trains beside buses.
    if train is None or not (first := _list_folders(root / train)):
        _refuse_outer_folder(root, names)
        return _with_enough(Tree(root=root, halves=("",), classes=tuple(names)), min_pictures)
    second = find_half(names, HELD_OUT)
    if second is None:
        raise DataError(
            f"{root} has {train}, but none of {', '.join(HELD_OUT)} beside it; "
            f"to have it split, say folder:{root / train}"
        )
    others = _list_folders(root / second)
    alone = sorted(set(first).symmetric_difference(others))
    if alone and min_pictures < 1:
        raise DataError(
            f"class {alone[0]!r} is in only one of {root / train} and {root / second}; "
            f"--data-setting min_pictures=1 leaves such classes out"
        )
    both = tuple(name for name in first if name not in alone)
    tree = _with_enough(Tree(root=root, halves=(train, second), classes=both), min_pictures)
    return replace(tree, notes=(*_note_left_out(alone, "in one half only"), *tree.notes))


def find_half(names: Iterable[str], known: Sequence[str]) -> str | None:
    """A half's name as `names` write it, in capitals or not: the first of `known` that is there, or None."""
    written = {name.lower(): name for name in names}
    return next((written[name] for name in known if name in written), None)


def _refuse_outer_folder(root: Path, names: list[str]) -> None:
    """Raise DataError where an archive was unpacked into a folder around the one that holds the classes."""
    if len(names) == 1 and len(_list_folders(root / names[0])) > 1:
        raise DataError(f"{root} holds only the folder {names[0]}: did you mean folder:{root / names[0]}?")


def _with_enough(tree: Tree, min_pictures: int) -> Tree:
    """The tree without classes of fewer pictures, which are noted; at least 2 classes are left."""
    few = [
        name
        for label, name in enumerate(tree.classes)
        if min_pictures and min(_count_up_to(tree, label, min_pictures)) < min_pictures
    ]
    classes = [name for name in tree.classes if name not in few]
    folder = tree.root / tree.halves[0]
    notes = _note_left_out(few, f"with fewer than {min_pictures} pictures")
    return replace(tree, classes=check_classes(folder, classes), notes=notes)


def _count_up_to(tree: Tree, label: int, maximum: int) -> list[int]:
    """How many pictures of a class each half has, counted no further than `maximum`."""
    one = replace(tree, classes=(tree.classes[label],))
    counts = [0] * len(tree.halves)
    for found in one.walk(at_most=maximum):
        counts[found.half] += 1
    return counts


def _note_left_out(names: list[str], why: str) -> tuple[str, ...]:
    if not names:
        return ()
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return (f"left out, {why}: {', '.join(names[:NUM_NAMED])}{more}",)


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
            raise DataError(
                f"class folder {folder} holds no picture ({', '.join(SUFFIXES)}); "
                f"--data-setting min_pictures=1 leaves such classes out"
            )
    return sum(map(sum, counts)), digest.hexdigest()


def describe_file(root: Path, found: Found) -> bytes:
    """Name, class, size and times; the time of the last change cannot be set back by hand."""
    try:
        status = (root / found.name).stat()
        facts = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    except OSError as error:  # a link that leads nowhere: counted with what cannot be read
        facts = str(error.strerror)
    return f"{found.name}\0{found.half} {found.label} {facts}\n".encode(errors="surrogateescape")


def check_classes(folder: Path, names: list[str]) -> tuple[str, ...]:
    """The names, at least 2 and printable; raises DataError about `folder`."""
    if len(names) < 2:
        got = f"only {names[0]}" if names else "none"
        # As the Hugging Face `imagefolder` has them where classes are not folders.
        listed = next(folder.glob("metadata.*"), None) or next(folder.glob("*/metadata.*"), None)
        hint = f"; for {listed} say table:{listed}" if listed else ""
        raise DataError(
            f"{folder} must hold a folder of pictures for each of at least 2 classes, got {got}{hint}"
        )
    for name in names:
        if not name.isprintable():
            raise DataError(f"{folder}: {name!r} cannot be the name of a class")
    return tuple(names)


def _list_folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        hint = "; unpack it first" if folder.suffix.lower() in ARCHIVES else ""
        raise DataError(f"cannot read the folder {folder}: {error.strerror}{hint}") from None
    return sorted(name for name in names if name not in NO_CLASSES)


def _list_files(root: Path, folder: str) -> Iterator[tuple[str, bool]]:
    """Names below `root`, sorted, and whether each is a picture; hidden files are not there.

    A link to a folder is followed for a class, but not inside it.
    """
    for here, folders, files in os.walk(root / folder, onerror=_stop):
        folders.sort()
        inside = os.path.relpath(here, root)
        for file in sorted(files):
            if not file.startswith("."):
                yield f"{inside}/{file}", is_picture(Path(here, file))


def _stop(error: OSError) -> None:
    raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from None
