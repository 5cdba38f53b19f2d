"""Folders of pictures: what counts as a class and a picture, how they are split, and what is refused."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_kit import encode, levels, noise, write_folder
from training.data import StreamedPixels, foresee_facts, load_split, sample_held_out
from training.errors import DataError
from training.pictures.tree import find_tree


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("TRAINING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(root: Path, **settings: object):
    return load_split(f"folder:{root}", {name: str(value) for name, value in settings.items()})


def decoded(root: Path) -> dict[bytes, str]:
    """Each picture's pixels, and its class, by a way of their own."""
    return {np.asarray(Image.open(path)).tobytes(): path.parent.name for path in root.rglob("*.png")}


def test_every_picture_is_there_once_with_its_class(tmp_path, capsys):
    root = write_folder(tmp_path / "my [pets]", {"cat": 30, "ant": 40, "bee 🐝": 20})
    split = load(root)
    assert split.facts.name == "folder:my [pets]"
    assert split.facts.labels == ["ant", "bee 🐝", "cat"]
    assert (split.facts.input_shape, split.facts.mode) == ((1, 8, 8), "L")
    assert torch.bincount(split.train_labels).tolist() == [32, 16, 24]
    assert torch.bincount(split.held_out_labels).tolist() == [8, 4, 6]
    both = [*levels(split.train_pixels), *levels(split.held_out_pixels)]
    names = [split.facts.labels[row] for row in [*split.train_labels, *split.held_out_labels]]
    assert dict(zip(both, names, strict=True)) == decoded(root)
    pixels = torch.stack([picture.double() / 255 for picture in split.train_pixels])
    # Rounded to 4 decimals: half of the last one.
    assert abs(pixels.mean().item() - split.facts.mean[0]) <= 0.5e-4
    assert abs(pixels.std().item() - split.facts.std[0]) <= 0.5e-4
    assert f"decoding 90 pictures of {root}, once" in capsys.readouterr().err


def test_a_second_load_decodes_nothing_and_is_the_same(tmp_path, capsys):
    root = write_folder(tmp_path / "pets", {"cat": 12, "dog": 9})
    first = load(root)
    capsys.readouterr()
    again, streamed = load(root), load(root, memory_mb=0)
    assert capsys.readouterr().err == ""
    assert again.facts == streamed.facts == first.facts
    assert isinstance(streamed.train_pixels, StreamedPixels)
    assert isinstance(first.train_pixels, torch.Tensor)
    assert streamed.train_pixels.shape == first.train_pixels.shape
    rows = torch.arange(len(first.train_labels))
    assert torch.equal(streamed.train_pixels[rows], first.train_pixels)
    assert torch.equal(streamed.train_labels, first.train_labels)
    for one, other in zip(sample_held_out(streamed, 4), sample_held_out(first, 4), strict=True):
        assert torch.equal(one, other)


def test_what_is_larger_than_memory_mb_is_streamed(tmp_path):
    root = write_folder(tmp_path / "pets", {"cat": 3, "dog": 3}, shape=(250, 250))
    assert 6 * 250 * 250 < 2**20 < 6 * 420 * 420 < 2 * 2**20
    for size, memory_mb, is_streamed in ((250, 1, False), (420, 1, True), (420, 2, False)):
        pixels = load(root, size=size, memory_mb=memory_mb).train_pixels
        assert isinstance(pixels, StreamedPixels) == is_streamed


def test_copies_of_a_picture_fall_on_one_side_whatever_their_class_or_format(tmp_path):
    root = write_folder(tmp_path / "pets", {"cat": 20, "dog": 20})
    for name, seen in (("cat", range(0, 20, 3)), ("dog", range(0, 20, 4))):
        for row in seen:
            image = Image.open(root / name / f"{row:03}.png")
            image.save(root / name / f"copy of {row}.bmp")
            image.save(root / ("dog" if name == "cat" else "cat") / f"other {row}.png", optimize=True)
    split = load(root)
    assert not set(levels(split.train_pixels)) & set(levels(split.held_out_pixels))
    assert len(split.train_labels) + len(split.held_out_labels) == 40 + 2 * (7 + 5)


def test_halves_stay_as_they_are_but_for_what_is_in_both(tmp_path):
    write_folder(tmp_path / "pets" / "train", {"cat": 6, "dog": 6}, seed=1)
    write_folder(tmp_path / "pets" / "val", {"cat": 3, "dog": 2}, seed=2)
    write_folder(tmp_path / "pets" / "test", {"cat": 2, "dog": 2}, seed=3)
    shutil.copy(
        tmp_path / "pets" / "val" / "dog" / "001.png", tmp_path / "pets" / "train" / "cat" / "leak.png"
    )
    split = load(tmp_path / "pets")
    assert set(levels(split.held_out_pixels)) == set(decoded(tmp_path / "pets" / "val"))
    assert len(split.train_labels) == 12
    assert split.notes == (
        f"{tmp_path}/pets is held out by its val; test is not used",
        "1 of 13 train pictures of folder:pets are also held out, and not trained on",
    )


def test_what_is_no_picture_and_what_is_hidden_does_not_count(tmp_path):
    root = write_folder(tmp_path / "pets", {"cat": 6, "dog": 6})
    before = load(root).facts
    (root / "README.txt").write_text("about")
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "dog" / ".0.png").write_bytes(b"x")
    (root / ".git").mkdir()
    assert load(root).facts == before
    (root / "cat" / "more").mkdir()
    (root / "cat" / "more" / "7.PNG").write_bytes(encode(Image.fromarray(noise(8, 8, seed=77))))
    (root / "cat" / "link.png").symlink_to(root / "cat" / "000.png")
    assert len(load(root).train_labels) + len(load(root).held_out_labels) == 14


def test_the_order_is_that_of_the_names_not_that_of_the_disk(tmp_path):
    rng = np.random.default_rng(0)
    names = [
        f"{class_name}/{folder:02}/{file:02}.png"
        for class_name in "ab"
        for folder in range(12)
        for file in range(9)
    ]
    for name in rng.permutation(names).tolist():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [found.name for found in find_tree(tmp_path).walk()] == names
    assert [found.name for found in find_tree(tmp_path).walk(at_most=2)] == [*names[:2], *names[108:110]]


def test_size_and_mode_are_the_pictures_own_unless_said(tmp_path):
    root = write_folder(tmp_path / "pets", {"cat": 5, "dog": 5}, shape=(6, 9, 3))
    assert load(root).facts.input_shape == (3, 6, 9)
    assert foresee_facts(f"folder:{root}").input_shape == (3, 6, 9)
    assert load(root, mode="L").facts.input_shape == (1, 6, 9)
    assert load(root, size=4).facts.input_shape == (3, 4, 4)
    assert load(root, size="4x7").facts.input_shape == (3, 4, 7)
    Image.fromarray(noise(30, 20, 3)).save(root / "dog" / "000.png")
    sentence = r"have sizes such as 6×9 and 30×20: say what each becomes, such as --data-setting size=64"
    for call in (load_split, foresee_facts):
        with pytest.raises(DataError, match=sentence):
            call(f"folder:{root}")
    assert load(root, size=8).facts.input_shape == (3, 8, 8)


def test_large_pictures_are_not_taken_at_their_own_size(tmp_path):
    root = write_folder(tmp_path / "pets", {"cat": 2, "dog": 2}, shape=(257, 8))
    with pytest.raises(DataError, match="sizes such as 257×8: say what each becomes"):
        load(root)


def test_what_cannot_be_read_is_named_counted_and_skipped_up_to_a_share(tmp_path):
    root = write_folder(tmp_path / "pets", {"cat": 25, "dog": 25})
    (root / "cat" / "100.png").write_bytes(b"not a picture")
    (root / "dog" / "101.png").write_bytes((root / "dog" / "003.png").read_bytes()[:60])
    (root / "dog" / "102.png").symlink_to(tmp_path / "nowhere")
    told = re.escape(f"3 of 53 pictures (5.66%) of {root} cannot be read: cat/100.png (it is none of JPEG, ")
    for _ in range(2):
        with pytest.raises(DataError, match=rf"{told}.*; more than max_corrupt_share=0\.01"):
            load(root)
    split = load(root, max_corrupt_share=0.06)
    assert len(split.train_labels) + len(split.held_out_labels) == 50
    assert re.match(told, split.notes[0])
    assert "dog/101.png (" in split.notes[0]
    assert "dog/102.png (No such file or directory)" in split.notes[0]
    assert split.notes[0].endswith("; skipped")
    assert load(root, max_corrupt_share=0.06).notes == split.notes
    with pytest.raises(DataError, match=r"more than max_corrupt_share=0\.05"):
        load(root, max_corrupt_share=0.05)


def write_imagefolder(root: Path) -> None:
    """As the Hugging Face layout names classes in a table beside the pictures."""
    (root / "train").mkdir(parents=True)
    (root / "train" / "metadata.csv").write_text("file_name,label\n0.png,cat\n")


@pytest.mark.parametrize(
    ("make", "settings", "sentence"),
    [
        (lambda root: None, {}, "cannot read the folder .*/pets: No such file or directory"),
        (lambda root: root.write_text(""), {}, "cannot read the folder .*/pets: Not a directory"),
        (lambda root: root.mkdir(), {}, "at least 2 classes, got none"),
        (lambda root: write_folder(root, {"cat": 5}), {}, "at least 2 classes, got only cat"),
        (write_imagefolder, {}, r"got only train; for (.*/metadata\.csv) say table:\1"),
        (
            lambda root: write_folder(root, {"cat": 5, "dog": 0}),
            {},
            r"class folder .*/pets/dog holds no picture \(\.jpg",
        ),
        (
            lambda root: write_folder(root, {"cat": 5, "dog": 2}),
            {},
            "class 'dog' of folder:pets has 2 pictures, too few",
        ),
        (
            lambda root: write_folder(root / "train", {"cat": 5, "dog": 5}),
            {},
            "has train, but none of val, valid",
        ),
        (
            lambda root: write_folder(root / "pets", {"cat": 5, "dog": 5}),
            {},
            r"pets holds only the folder pets: did you mean folder:.*/pets/pets\?",
        ),
        (
            lambda root: (
                write_folder(root / "train", {"cat": 2, "dog": 2}),
                write_folder(root / "test", {"cat": 2, "cow": 2}, seed=1),
            ),
            {},
            "class 'cow' is in only one of .*/pets/train and .*/pets/test",
        ),
        (
            lambda root: write_folder(root, {"cat": 5, "dog": 5}),
            {"size": "0"},
            "size must be SIDE or HEIGHTxWIDTH",
        ),
        (lambda root: write_folder(root, {"cat": 5, "dog": 5}), {"size": "4x4x4"}, "size must be SIDE or"),
        (lambda root: write_folder(root, {"cat": 5, "dog": 5}), {"size": "big"}, "got 'big'"),
        (
            lambda root: write_folder(root, {"cat": 5, "dog": 5}),
            {"mode": "RGBA"},
            "mode must be L or RGB, got 'RGBA'",
        ),
        (lambda root: None, {"max_corrupt_share": "1"}, "max_corrupt_share must lie in 0 .. 1, below 1"),
        (lambda root: None, {"memory_mb": "-1"}, "memory_mb not negative"),
        (
            lambda root: None,
            {"sise": "8"},
            "unknown setting of data set folder 'sise', .*; did you mean size",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, make, settings, sentence):
    make(tmp_path / "pets")
    with pytest.raises(DataError, match=sentence) as caught:
        load(tmp_path / "pets", **settings)
    assert "\n" not in str(caught.value)


def test_copies_alone_cannot_be_split(tmp_path):
    root = write_folder(tmp_path / "pets", {"cat": 10, "dog": 1})
    for row in range(1, 8):
        shutil.copy(root / "dog" / "000.png", root / "dog" / f"{row}.png")
    with pytest.raises(DataError, match="class 'dog' of folder:pets has too few different pictures to split"):
        load(root)
