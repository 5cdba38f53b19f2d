"""A folder of pictures, with a folder in it for each class; see training/pictures/tree.py for its forms.

In: a path and settings.  Out: a `Split`: in memory if it is small, else streamed from the decoded file.

    PATH/CLASS/…               a fifth of each class is held out, equal pictures on the same side
    PATH/train/CLASS/… …       the halves as they are, less the train pictures that are also held out
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from service.contract.pictures import PictureError, inspect_picture
from service.contract.target import Target
from training.data.divide import build_split, check_labels, choose_held_out, keep_apart
from training.data.facts import DataFacts, resizing
from training.data.sets.download import find_cache
from training.data.sets.folder_settings import FolderSettings
from training.data.split import Split
from training.data.streamed import Pixels, StreamedPixels
from training.errors import DataError
from training.pictures.formats import FORMATS
from training.pictures.make import describe_skipped
from training.pictures.store import Store, open_store
from training.pictures.tree import HELD_OUT, Tree

NUM_LOOKED_AT = 64
LARGEST_OWN_SIDE = 256
NUM_NAMED = 3

Find = Callable[[Path, int], Tree]
"""Which pictures there are: a path and the minimum pictures of a class → a tree."""


def load_folder(find: Find, path: Path, settings: FolderSettings) -> Split:
    """Decode what was not decoded before, and split; `find` is find_tree or find_table."""
    sides = settings.sides()
    tree = find(path, settings.min_pictures)
    target = choose_target(tree, settings, sides)
    store = open_store(tree, target, find_cache(), settings.max_corrupt_share)
    name, label_names = tree.name, list(tree.classes)
    notes = [*_note_unused(tree), *_note_shared(tree, store)]
    if store.skipped:
        notes.append(f"{describe_skipped(tree.root.resolve(), store.skipped, len(store.labels))}; skipped")
    train, held_out, more = _divide(name, store, tree, label_names)
    sums = [(int(first), int(second)) for first, second in store.sums[train].sum(0).T]
    num_pixels = len(train) * target.height * target.width
    halves = [
        (_open_pixels(store, rows, settings.memory_mb), torch.from_numpy(store.labels[rows]))
        for rows in (train, held_out)
    ]
    split = build_split(name, label_names, sums, num_pixels, halves[0], halves[1], [*notes, *more])

    def name_held_out(numbers: Sequence[int]) -> list[str]:
        return name_rows(tree, held_out[list(numbers)].tolist())

    return replace(
        split,
        facts=settings.resized(split.facts),
        name_held_out=name_held_out,
        is_divided_here=len(tree.halves) == 1,
    )


def name_rows(tree: Tree, rows: Sequence[int]) -> list[str]:
    """The files of some rows of a store, below the tree's root; walks the tree once."""
    wanted = set(rows)
    names = {row: found.name for row, found in enumerate(tree.walk()) if row in wanted}
    return [names[row] for row in rows]


def foresee_folder(find: Find, path: Path, settings: FolderSettings) -> DataFacts:
    """What will be known of the folder, but for its mean and std, which take long."""
    sides = settings.sides()
    tree = find(path, settings.min_pictures)
    target = choose_target(tree, settings, sides)
    channels = target.shape[0]
    facts = DataFacts(
        name=tree.name,
        labels=list(tree.classes),
        input_shape=target.shape,
        mode="L" if target.mode == "L" else "RGB",
        mean=[0.0] * channels,
        std=[1.0] * channels,
    )
    return settings.resized(facts)


def choose_target(tree: Tree, settings: FolderSettings, sides: tuple[int, int] | None) -> Target:
    """What every picture becomes: as the settings say, else as the first pictures of each class are."""
    mode = settings.mode
    if not (mode and sides):
        looks = _inspect_first(tree, settings.max_pixels)
        mode = mode or ("L" if all(is_grey for is_grey, _, _ in looks) else "RGB")
        sizes = sorted({(height, width) for _, height, width in looks})
        if sides is None and (len(sizes) > 1 or max(sizes[0]) > LARGEST_OWN_SIDE):
            shown = " and ".join(f"{height}×{width}" for height, width in sizes[:: max(len(sizes) - 1, 1)])
            raise DataError(
                f"the pictures of {tree.root} have sizes such as {shown}: say what each becomes, "
                f"such as --data-setting size=64"
            )
        sides = sides or sizes[0]
    height, width = sides
    return Target(
        mode="L" if mode == "L" else "RGB",
        height=height,
        width=width,
        max_pixels=settings.max_pixels,
        resize=resizing(settings.resize, settings.interpolation, sides),
    )


def _inspect_first(tree: Tree, max_pixels: int) -> list[tuple[bool, int, int]]:
    """Whether it is grey, height and width of the first pictures of each class that can be read."""
    looks = []
    per_class = -(-NUM_LOOKED_AT // len(tree.classes))
    for found in islice(tree.walk(at_most=per_class), NUM_LOOKED_AT):
        try:
            looks.append(inspect_picture((tree.root / found.name).read_bytes(), max_pixels, FORMATS))
        except (OSError, PictureError):
            continue
    if not looks:
        raise DataError(f"none of the first pictures of {tree.root} can be read")
    return looks


def _divide(
    name: str, store: Store, tree: Tree, label_names: list[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows of the store for each half, and notes."""
    rows = np.flatnonzero(store.was_read)
    digests, labels = store.digests[rows], store.labels[rows]
    notes: list[str] = []
    if len(tree.halves) == 1:
        check_labels(name, torch.from_numpy(labels), label_names)
        held_out = choose_held_out(name, digests, labels, label_names)
        train = ~held_out
    else:
        held_out = store.halves[rows] == 1
        train = ~held_out
        train[train], notes = keep_apart(name, digests[train], digests[held_out])
    for half, chosen in (("train", train), ("held-out", held_out)):
        check_labels(f"the {half} half of {name}", torch.from_numpy(labels[chosen]), label_names)
    return rows[train], rows[held_out], notes


def _open_pixels(store: Store, rows: np.ndarray, memory_mb: int) -> Pixels:
    streamed = StreamedPixels(store.pixels, torch.from_numpy(rows), store.target.shape)
    if store.pixels.stat().st_size > memory_mb << 20:
        return streamed
    return streamed[torch.arange(len(rows))]


def _note_unused(tree: Tree) -> list[str]:
    """Classes, folders and files that are not used, by their kind."""
    notes = list(tree.notes)
    unused = [name for name in HELD_OUT if name not in tree.halves and (tree.root / name).is_dir()]
    if type(tree) is Tree and len(tree.halves) == 2 and unused:
        notes.append(f"{tree.root} is held out by its {tree.halves[1]}; {', '.join(unused)} is not used")
    kinds = tree.count_unused()
    if kinds:
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        what = "file was" if kinds.total() == 1 else "files were"
        notes.append(f"{kinds.total():,} {what} not used: {listed}")
    return notes


def _note_shared(tree: Tree, store: Store) -> list[str]:
    """Pictures that are in more than one class: at least one of their labels is wrong."""
    first: dict[tuple[int, bytes], int] = {}
    pairs: list[tuple[int, int]] = []
    for row in np.flatnonzero(store.was_read).tolist():
        # Of one half: what is in both is not trained on, and noted by `keep_apart`.
        other = first.setdefault((int(store.halves[row]), bytes(store.digests[row])), row)
        if store.labels[other] != store.labels[row]:
            pairs.append((other, row))
    if not pairs:
        return []
    names = iter(name_rows(tree, [row for pair in pairs[:NUM_NAMED] for row in pair]))
    listed = ", ".join(f"{one} = {other}" for one, other in zip(names, names, strict=True))
    more = f" and {len(pairs) - NUM_NAMED} more" if len(pairs) > NUM_NAMED else ""
    what = "picture is" if len(pairs) == 1 else "pictures are"
    return [f"{len(pairs):,} {what} also in another class: {listed}{more}"]
