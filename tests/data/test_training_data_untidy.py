"""Data as people have it: odd suffixes, leftovers, tiny classes, one picture in two classes, and tables."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_kit import encode, levels, noise, write_folder
from training.data import foresee_facts, load_split
from training.errors import DataError


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRAINING_CACHE", str(tmp_path / "cache"))


def load(root: Path, kind: str = "folder", **settings: object):
    return load_split(f"{kind}:{root}", {name: str(value) for name, value in settings.items()})


def num_pictures(split) -> int:
    return len(split.train_labels) + len(split.held_out_labels)


def test_every_file_that_is_not_used_is_counted_by_its_kind(tmp_path):
    root = write_folder(tmp_path / "pets", {"cat": 6, "dog": 6})
    for name in ("a.heic", "b.HEIC", "c.txt", "notes"):
        (root / "cat" / name).write_bytes(b"x")
    assert load(root).notes == ("4 files were not used: 2 .heic, 1 .txt, 1 without a suffix",)
    (root / "dog" / ".DS_Store").write_bytes(b"x")
    assert load(root).notes == ("4 files were not used: 2 .heic, 1 .txt, 1 without a suffix",)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jfif", "JPEG"),
        ("a.AVIF", "AVIF"),
        *((f"n0{number}", kind) for number, kind in enumerate(("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP"))),
    ],
)
def test_pictures_of_odd_suffixes_or_none_are_read(tmp_path, name, kind):
    root = write_folder(tmp_path / "pets", {"cat": 6, "dog": 6}, shape=(8, 8, 3))
    picture = Image.fromarray(noise(8, 8, 3, seed=9))
    (root / "cat" / name).write_bytes(encode(picture, kind))
    split = load(root)
    assert num_pictures(split) == 13
    assert split.notes == ()


def test_what_archivers_leave_is_no_class(tmp_path):
    root = write_folder(tmp_path / "pets", {"cat": 6, "dog": 6})
    (root / "__MACOSX" / "cat").mkdir(parents=True)
    assert load(root).facts.labels == ["cat", "dog"]


@pytest.mark.parametrize(("train", "held_out"), [("Train", "Test"), ("training", "dev")])
def test_halves_are_known_by_other_names_too(tmp_path, train, held_out):
    """They used to become two classes, called Train and Test."""
    root = tmp_path / "pets"
    write_folder(root / train, {"cat": 6, "dog": 6})
    write_folder(root / held_out, {"cat": 2, "dog": 2}, seed=1)
    split = load(root)
    assert split.facts.labels == ["cat", "dog"]
    assert (len(split.train_pixels), len(split.held_out_pixels)) == (12, 4)


def test_trains_are_a_class_beside_buses(tmp_path):
    assert load(write_folder(tmp_path / "pets", {"bus": 6, "train": 6})).facts.labels == ["bus", "train"]


def test_tiny_and_empty_classes_are_left_out_where_asked_for(tmp_path):
    root = write_folder(tmp_path / "pets", {"ant": 2, "bee": 0, "cat": 6, "dog": 6})
    with pytest.raises(DataError, match=r"bee holds no picture .* min_pictures=1 leaves such classes out"):
        load(root)
    with pytest.raises(DataError, match="class 'ant' of folder:pets has 2 pictures, too few to split"):
        load(root, min_pictures=1)
    split = load(root, min_pictures=3)
    assert split.facts.labels == ["cat", "dog"]
    assert split.notes == ("left out, with fewer than 3 pictures: ant, bee",)
    assert foresee_facts(f"folder:{root}", {"min_pictures": "3"}).labels == ["cat", "dog"]
    with pytest.raises(DataError, match="at least 2 classes, got none"):
        load(root, min_pictures=7)


def test_a_class_that_one_half_lacks_is_left_out_where_asked_for(tmp_path):
    root = tmp_path / "pets"
    write_folder(root / "train", {"ant": 4, "cat": 6, "dog": 6}, seed=1)
    write_folder(root / "val", {"cat": 3, "dog": 1}, seed=2)
    with pytest.raises(DataError, match=r"class 'ant' is in only one .* min_pictures=1"):
        load(root)
    split = load(root, min_pictures=1)
    assert split.facts.labels == ["cat", "dog"]
    assert split.notes == ("left out, in one half only: ant",)


def test_a_picture_in_two_classes_is_told(tmp_path):
    root = write_folder(tmp_path / "pets", {"cat": 6, "dog": 6})
    shutil.copy(root / "cat" / "002.png", root / "dog" / "zebra.png")
    assert load(root).notes == ("1 picture is also in another class: cat/002.png = dog/zebra.png",)


def table_of(root: Path, name: str, lines: list[dict[str, object]]) -> Path:
    path = root / name
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            delimiter = "\t" if name.endswith(".tsv") else ","
            writer = csv.DictWriter(file, list(lines[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(lines)
    return path


@pytest.fixture
def heap(tmp_path) -> Path:
    """24 pictures in one folder, their classes only in a table."""
    folder = tmp_path / "heap" / "images"
    folder.mkdir(parents=True)
    for row, pixels in enumerate(noise(24, 8, 8)):
        Image.fromarray(pixels).save(folder / f"{row:02}.png")
    return tmp_path / "heap"


def lines_of(count: int = 24, **more: object) -> list[dict[str, object]]:
    return [{"file_name": f"images/{row:02}.png", "label": row % 3 + 9, **more} for row in range(count)]


def test_a_table_of_semicolons_is_one_too(heap):
    path = table_of(heap, "labels.csv", lines_of())
    path.write_text(path.read_text().replace(",", ";"))
    assert num_pictures(load(path, "table")) == len(lines_of())


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "metadata.jsonl"])
def test_a_table_names_pictures_and_classes(heap, name):
    split = load(table_of(heap, name, lines_of()), "table")
    assert split.facts.labels == ["9", "10", "11"], "numbers in their order"
    assert split.facts.name == f"table:{name}"
    both = [*levels(split.train_pixels), *levels(split.held_out_pixels)]
    labels = [*split.train_labels.tolist(), *split.held_out_labels.tolist()]
    expected = {pixels.tobytes(): row % 3 for row, pixels in enumerate(noise(24, 8, 8))}
    assert dict(zip(both, labels, strict=True)) == expected


def test_halves_of_a_table(heap):
    lines = [
        {"path": f"images/{row:02}.png", "label": "ab"[row % 2], "split": "train" if row < 16 else "val"}
        for row in range(22)
    ]
    lines += [{"path": "images/22.png", "label": "", "split": "train"}]
    lines += [{"path": "images/23.png", "label": "a", "split": "extra"}]
    split = load(table_of(heap, "labels.csv", lines), "table")
    assert torch.bincount(split.train_labels).tolist() == [8, 8]
    assert torch.bincount(split.held_out_labels).tolist() == [3, 3]
    assert split.notes == ("2 files were not used: 1 no label, 1 split extra",)


def test_two_tables_of_one_folder_are_two_data_sets(heap):
    one = table_of(heap, "one.csv", lines_of())
    two = table_of(heap, "two.csv", lines_of(12))
    assert [num_pictures(load(path, "table")) for path in (one, two, one)] == [24, 12, 24]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a,b\n1,2\n", r"has no column of paths \(file_name, .*its first line names a, b"),
        ("path,b\n1,2\n", r"has no column of labels \(label, "),
        ("", "has no column of paths .* names nothing"),
        ("path,label\nimages/00.png,a\n", "at least 2 classes, got only a"),
        ("path,label\nimages/00.png,a\nnowhere.png,b\n", "cannot be read: nowhere.png"),
    ],
)
def test_a_table_that_is_none_is_one_sentence(heap, content, sentence):
    (heap / "labels.csv").write_text(content)
    with pytest.raises(DataError, match=sentence) as caught:
        load(heap / "labels.csv", "table")
    assert "\n" not in str(caught.value)


def test_a_parquet_table_is_read_where_pyarrow_is(heap):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install pyarrow")
    import pyarrow

    columns = {key: [line[key] for line in lines_of()] for key in ("file_name", "label")}
    parquet.write_table(pyarrow.table(columns), heap / "labels.parquet")
    assert load(heap / "labels.parquet", "table").facts.labels == ["9", "10", "11"]


def test_without_pyarrow_it_says_how_to_get_it(heap, monkeypatch):
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    (heap / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="needs the package pyarrow: pip install pyarrow"):
        load(heap / "labels.parquet", "table")
