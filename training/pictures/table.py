"""A table of paths and labels as a tree: a CSV, TSV, JSON Lines or Parquet file, a line for each picture.

In: the file.  Out: a `Tree` whose pictures are the table's, in its order.

    path     file_name, filename, file, path, image, img or image_path; relative to the table's own folder
    label    label, class, category, target or y; text or numbers
    split    split, set or subset, optional: train or training, and one of the names in tree.py

A Hugging Face `imagefolder` with a metadata.csv or metadata.jsonl is one of these.
"""

import csv
import importlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import DataError
from training.pictures.tree import HELD_OUT, TRAIN, Found, Tree, check_classes, find_half

PATHS = ("file_name", "filename", "file", "path", "image", "img", "image_path", "filepath")
LABELS = ("label", "class", "category", "target", "y")
SPLITS = ("split", "set", "subset")
INSTALL = "pip install pyarrow"


@dataclass(frozen=True, kw_only=True)
class TableTree(Tree):
    """The pictures that a table lists; `unused` counts its lines that name none, by why."""

    table: Path
    rows: tuple[Found, ...]
    unused: Mapping[str, int]

    @property
    def name(self) -> str:
        """Of the data set."""
        return f"table:{self.table.name}"

    @property
    def key(self) -> str:
        """What tells this tree from all others on this machine."""
        return str(self.table.resolve())

    def walk(self, at_most: int | None = None) -> Iterator[Found]:
        """Every picture, or `at_most` so many of each class of each half, half by half, class by class."""
        seen: Counter[tuple[int, int]] = Counter()
        for found in self.rows:
            seen[found.half, found.label] += 1
            if at_most is None or seen[found.half, found.label] <= at_most:
                yield found

    def count_unused(self) -> Counter[str]:
        """Lines without a path, a label or a known split."""
        return Counter(self.unused)


def find_table(path: Path, min_pictures: int = 0) -> TableTree:
    """Read the table; raises DataError if it is none, or names fewer than 2 classes.

    Classes with fewer than `min_pictures` pictures, in either half, are left out and noted.
    """
    lines = _read_lines(path)
    columns = list(lines[0]) if lines else []
    place, label = _find(path, columns, PATHS, "paths"), _find(path, columns, LABELS, "labels")
    split = next((name for name in columns if name.lower() in SPLITS), None)
    unused: Counter[str] = Counter()
    rows: list[tuple[str, str, str]] = []
    for line in lines:
        name, of_class = _text(line.get(place)), _text(line.get(label))
        half = _text(line.get(split)).lower() if split else ""
        if not name or not of_class:
            unused["no path" if not name else "no label"] += 1
        else:
            rows.append((name, of_class, half))
    written = {half for *_, half in rows}
    second = find_half(written, HELD_OUT)
    halves = (find_half(written, TRAIN) or TRAIN[0], second) if split and second else ("",)
    if split:
        for *_, half in rows:
            if half not in halves and halves != ("",):
                unused[f"split {half or 'none'}"] += 1
        rows = [row for row in rows if halves == ("",) or row[2] in halves]
    counts = Counter((of_class, half if second and split else "") for _, of_class, half in rows)
    names = sorted({of_class for of_class, _ in counts}, key=_by_number)
    few = [name for name in names if min(counts[name, half or ""] for half in halves) < min_pictures]
    classes = check_classes(path, [name for name in names if name not in few])
    number = {name: index for index, name in enumerate(classes)}
    found = [
        Found(name, number[of_class], halves.index(half) if len(halves) > 1 else 0)
        for name, of_class, half in rows
        if of_class in number
    ]
    notes = (f"left out, with fewer than {min_pictures} pictures: {', '.join(few[:3])}",) if few else ()
    return TableTree(
        root=path.parent,
        halves=halves,
        classes=classes,
        notes=notes,
        table=path,
        rows=tuple(sorted(found, key=lambda each: (each.half, each.label))),
        unused=unused,
    )


def _read_lines(path: Path) -> Sequence[Mapping[str, Any]]:
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            return _read_parquet(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            if kind in (".jsonl", ".ndjson"):
                return [json.loads(line) for line in file if line.strip()]
            first = file.readline()
            file.seek(0)
            # Where a comma is the decimal sign, Excel writes semicolons into a .csv.
            separator = ";" if ";" in first and "," not in first else ","
            return list(csv.DictReader(file, delimiter="\t" if kind == ".tsv" else separator))
    except OSError as error:
        raise DataError(f"cannot read the table {path}: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is no table of paths and labels: {error}") from None


def _read_parquet(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(f"{path} needs the package pyarrow: {INSTALL}, or write the table as CSV") from None
    try:
        lines: list[dict[str, Any]] = parquet.read_table(str(path)).to_pylist()
    except Exception as error:  # pyarrow's errors share no class but Exception
        raise DataError(f"{path} is no Parquet file of paths and labels: {error}") from None
    return lines


def _find(path: Path, columns: Sequence[str], known: Sequence[str], what: str) -> str:
    for name in known:
        for column in columns:
            if column is not None and column.strip().lower() == name:
                return column
    raise DataError(
        f"{path} has no column of {what} ({', '.join(known)}), "
        f"its first line names {', '.join(map(str, columns)) or 'nothing'}"
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _by_number(name: str) -> tuple[bool, int, str]:
    """Classes that are whole numbers in their order, 2 before 10; then words."""
    is_number = name.isascii() and name.isdigit()
    return (not is_number, int(name) if is_number else 0, name)
