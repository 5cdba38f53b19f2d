"""NumPy archives: the usual names and layouts are read, what could mean two things is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data_kit import levels, noise
from training.data.sets.npz import load_npz
from training.errors import DataError


def write(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def halves(train=20, test=10, shape=(6, 5), **changes) -> dict[str, np.ndarray]:
    arrays = {
        "x_train": noise(train, *shape, seed=1),
        "y_train": np.arange(train) % 3,
        "x_test": noise(test, *shape, seed=2),
        "y_test": np.arange(test) % 3,
    }
    return {**arrays, **changes}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6, 5), (1, 6, 5)),
        ((6, 5, 1), (1, 6, 5)),
        ((6, 5, 3), (3, 6, 5)),
        ((3, 6, 5), (3, 6, 5)),
        ((1, 6, 5),) * 2,
    ],
    ids=["NHW", "NHW1", "NHWC", "NCHW", "N1HW"],
)
def test_layouts_are_told_apart(tmp_path, shape, expected):
    arrays = halves(shape=shape)
    split = load_npz(write(tmp_path / "a.npz", **arrays))
    assert split.facts.input_shape == expected
    nchw = (
        arrays["x_train"] if shape[0] in (1, 3) or len(shape) == 2 else np.moveaxis(arrays["x_train"], 3, 1)
    )
    assert levels(split.train_pixels) == [picture.tobytes() for picture in nchw]
    assert split.train_labels.tolist() == arrays["y_train"].tolist()
    assert split.held_out_labels.dtype == torch.int64
    assert split.facts.labels == ["0", "1", "2"]


@pytest.mark.parametrize("shape", [(3, 5, 1), (1, 5, 1), (3, 3, 3)])
def test_a_layout_that_could_be_two_is_refused(tmp_path, shape):
    with pytest.raises(DataError, match="could be NCHW as well as NHWC"):
        load_npz(write(tmp_path / "a.npz", **halves(shape=shape)))


@pytest.mark.parametrize("names", [{}, {"class_names": np.array(["1", "2", "3"])}])
def test_labels_may_be_counted_from_one(tmp_path, names):
    arrays = halves(**names)
    from_one = arrays | {"y_train": arrays["y_train"] + 1, "y_test": arrays["y_test"] + 1}
    split = load_npz(write(tmp_path / "a.npz", **from_one))
    assert split.facts.labels == ["1", "2", "3"]
    assert split.train_labels.tolist() == arrays["y_train"].tolist()


def test_one_heap_is_split_by_class_and_takes_other_whole_numbers(tmp_path):
    arrays = {"x": noise(30, 4, 4).astype(np.int64), "y": (np.arange(30) % 3).astype(np.uint8).reshape(30, 1)}
    split = load_npz(write(tmp_path / "a.npz", **arrays, labels=np.array(["ape", "bee", "cow"])))
    assert torch.bincount(split.held_out_labels).tolist() == [2, 2, 2]
    assert split.facts.labels == ["ape", "bee", "cow"]
    renamed = {"images": arrays["x"], "labels": arrays["y"], "class_names": np.array(["ape", "bee", "cow"])}
    again = load_npz(write(tmp_path / "b.npz", **renamed))
    assert levels(again.held_out_pixels) == levels(split.held_out_pixels)
    assert again.facts.labels == split.facts.labels


def test_a_picture_that_is_held_out_is_not_trained_on(tmp_path):
    arrays = halves()
    arrays["x_train"][[4, 7]] = arrays["x_test"][3]
    split = load_npz(write(tmp_path / "a.npz", **arrays))
    assert len(split.train_pixels) == len(split.train_labels) == 18
    assert not set(levels(split.train_pixels)) & set(levels(split.held_out_pixels))
    assert split.notes == ("2 of 20 train pictures of npz:a.npz are also held out, and not trained on",)


def test_validation_is_held_out_before_test(tmp_path):
    arrays = {
        f"{half}_{what}": array
        for seed, half in enumerate(("train", "val", "test"))
        for what, array in (("images", noise(6, 4, 4, seed=seed)), ("labels", np.arange(6) % 2))
    }
    split = load_npz(write(tmp_path / "a.npz", **arrays))
    assert levels(split.held_out_pixels) == [picture.tobytes() for picture in arrays["val_images"]]


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"pictures": noise(3, 2, 2)}, r"must hold x_train, y_train, .* or images, labels, got nothing"),
        (
            halves(x_train=noise(20, 6, 5) / 255 - 0.5),
            r"x_train must lie in 0 \.\. 1 or 0 \.\. 255, got -0\.5 ",
        ),
        (halves(x_train=np.full((20, 6, 5), np.nan)), r"x_train must lie in 0 \.\. 1 or .*, got nan"),
        (halves(x_train=noise(20, 6, 5) > 99), r"x_train must hold whole numbers, got bool"),
        (halves(y_train=np.arange(20) % 3 + 0.5), r"y_train must hold whole numbers, got float64"),
        (
            halves(y_train=np.eye(3, dtype=int)[np.arange(20) % 3] * 2),
            r"y_train must hold a label for each .* \(20, 3\)",
        ),
        (
            halves(y_train=np.arange(19) % 3),
            r"y_train must hold a label for each picture of x_train, got \(19,\)",
        ),
        (
            halves(x_train=noise(20, 6, 5).astype(int) * 2),
            r"x_train must lie in 0 \.\. 255, got \d+ \.\. 510",
        ),
        (halves(x_train=noise(20, 6, 5).astype(int) - 9), r"x_train must lie in 0 \.\. 255, got -9 \.\."),
        (halves(x_test=noise(10, 5, 5)), r"must have one shape, got \(1, 6, 5\) and \(1, 5, 5\)"),
        (halves(x_train=noise(20, 6, 5, 4)), r"with 1 or 3 channels, got \(20, 6, 5, 4\)"),
        (halves(x_train=noise(20, 30)), r"must be \(N, H, W\).* got \(20, 30\)"),
        (halves(y_train=np.arange(20) % 3 - 1), r"label -1 is out of range"),
        (halves(y_train=np.full(20, 1 << 40)), r"label 1099511627776 is out of range"),
        (
            halves(y_train=np.full(20, 2**64 - 1, np.uint64)),
            r"label 18446744073709551615 of y_train is out of range",
        ),
        (
            halves(class_names=np.array(["ape", "bee"])),
            r"label 2 of picture 2 of the train half .* range 0 \.\. 1",
        ),
        (halves(class_names=np.array(["ape", "bee", "bee"])), r"class_names must be different words"),
        (halves(y_train=np.arange(20) % 2), r"class '2' of the train half of npz:a.npz has no picture"),
        (halves(y_train=np.zeros(20, int), y_test=np.zeros(10, int)), r"has 1 class, at least 2 are needed"),
        (
            halves(x_train=np.zeros((0, 6, 5), np.uint8), y_train=np.zeros(0, int)),
            r"a label for each picture",
        ),
        (halves(x_train=np.full((20, 6, 5), 7, np.uint8)), r"std must be positive"),
        (
            {"x": noise(4, 2, 2), "y": np.arange(4) % 2},
            r"class '0' of npz:a.npz has 2 pictures, too few to split",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "-",
)
def test_what_is_wrong_is_one_sentence_that_names_it(tmp_path, arrays, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        load_npz(write(tmp_path / "a.npz", **arrays))
    assert "\n" not in str(caught.value)


def test_pickles_and_ruins_are_not_opened(tmp_path):
    path = write(tmp_path / "a.npz", **halves(y_train=np.array([{}] * 20, object)))
    with pytest.raises(DataError, match=r"is no \.npz archive of plain arrays: .*allow_pickle=False"):
        load_npz(path)
    whole = write(tmp_path / "whole.npz", **halves()).read_bytes()
    for content in (b"", b"nothing of the kind", whole[:-30], whole[:300]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npz is no \.npz archive"):
            load_npz(path)
    path.write_bytes(b"path,label\n")
    with pytest.raises(DataError, match=r"plain arrays: it is no zip archive$"):
        load_npz(path)
    with path.open("wb") as file:
        np.save(file, noise(3, 2, 2))
    with pytest.raises(DataError, match="it holds one array without a name"):
        load_npz(path)
    with pytest.raises(DataError, match=r"no file .*gone\.npz"):
        load_npz(tmp_path / "gone.npz")


@pytest.mark.parametrize("scale", [1, 255])
def test_floating_pictures_are_rounded_to_levels(tmp_path, scale):
    levels_nhw = halves()["x_train"]
    arrays = halves(x_train=(levels_nhw / 255 * scale).astype(np.float32))
    split = load_npz(write(tmp_path / "a.npz", **arrays))
    assert levels(split.train_pixels) == [picture.tobytes() for picture in levels_nhw]


def test_labels_may_be_one_hot_text_or_floating(tmp_path):
    plain = halves()
    expected = load_npz(write(tmp_path / "a.npz", **plain)).train_labels.tolist()
    for number, labels in enumerate((lambda y: np.eye(3)[y], lambda y: y.astype(np.float32))):
        arrays = {**plain, "y_train": labels(plain["y_train"]), "y_test": labels(plain["y_test"])}
        split = load_npz(write(tmp_path / f"{number}.npz", **arrays))
        assert split.train_labels.tolist() == expected
    words = np.array(["cow", "ape", "bee"])
    for kind in ("U", "S"):
        arrays = {**plain, **{key: words[plain[key]].astype(kind) for key in ("y_train", "y_test")}}
        split = load_npz(write(tmp_path / "words.npz", **arrays))
        assert split.facts.labels == ["ape", "bee", "cow"]
        named = [split.facts.labels[label] for label in split.train_labels]
        assert named == words[plain["y_train"]].tolist()


def test_capitals_and_a_validation_half_are_known(tmp_path):
    plain = halves()
    renamed = {"X_train": "x_train", "Y_train": "y_train", "x_val": "x_test", "y_val": "y_test"}
    arrays = {name: plain[key] for name, key in renamed.items()} | {"x_test": plain["x_test"][:4]}
    path = write(tmp_path / "a.npz", **arrays)
    split = load_npz(path)
    assert len(split.held_out_labels) == 10
    assert split.notes == (f"{path} is held out by its x_val; x_test is not used",)
