"""Synthetic pictures: as many and as large as asked for, the same for ever, and they can be learnt."""

import hashlib

import pytest
import torch

from data_kit import levels
from training.data import load_split, normalize
from training.errors import DataError


def test_sizes_are_those_asked_for():
    split = load_split("synthetic:1x9x7x3", {"rows": "50"})
    assert split.train_pixels.shape == (50, 1, 9, 7)
    assert split.held_out_pixels.shape == (12, 1, 9, 7)
    assert split.train_pixels.dtype == torch.uint8
    assert split.train_labels.tolist() == [row % 3 for row in range(50)]
    assert split.facts.labels == ["0", "1", "2"]
    assert load_split("synthetic", {"rows": "10"}).facts.input_shape == (3, 32, 32)


def test_equal_settings_give_equal_bytes_and_no_picture_comes_twice():
    first, again, other = (
        load_split("synthetic:3x8x8x4", {"rows": "200", "seed": seed}) for seed in ("5", "5", "6")
    )
    assert torch.equal(first.train_pixels, again.train_pixels)
    assert torch.equal(first.held_out_pixels, again.held_out_pixels)
    assert not torch.equal(first.train_pixels, other.train_pixels)
    assert len(set(levels(first.train_pixels)) | set(levels(first.held_out_pixels))) == 250
    digest = hashlib.sha256(first.train_pixels.numpy().tobytes()).hexdigest()
    assert digest == "2c88f6ebc255acbd28f5f429543651882fc8224f76013c503775be986ff6e1ea", (
        "a benchmark of other pictures could not be compared with one before"
    )


def test_the_classes_can_be_learnt():
    """Which class's mean picture is nearest: a rule that any net can do better than."""
    split = load_split("synthetic:3x16x16x10", {"rows": "400"})
    train, held_out = (
        normalize(pixels, split.facts).flatten(1) for pixels in (split.train_pixels, split.held_out_pixels)
    )
    means = torch.stack([train[split.train_labels == label].mean(0) for label in range(10)])
    guesses = torch.cdist(held_out, means).argmin(1)
    assert (guesses == split.held_out_labels).double().mean() > 0.99


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("synthetic:3x32x32", {}, "CHANNELSxHEIGHTxWIDTHxCLASSES, such as 3x32x32x10"),
        ("synthetic:2x32x32x10", {}, "with 1 or 3 channels"),
        ("synthetic:3x0x32x10", {}, "got '3x0x32x10'"),
        ("synthetic:3x32x32x1", {}, "at least 2 classes"),
        ("synthetic:3x-4x32x10", {}, "got '3x-4x32x10'"),
        ("synthetic", {"rows": "9"}, "10 classes needs as many rows, got 9"),
        ("synthetic", {"rows": "0"}, "rows ≥ 1"),
        ("synthetic", {"seed": "-1"}, "a seed in 0"),
        (
            "synthetic",
            {"rows": "many"},
            "setting rows of data set synthetic must be a whole number, got 'many'",
        ),
        (
            "synthetic",
            {"row": "9"},
            "unknown setting of data set synthetic 'row', known: rows, seed; did you mean",
        ),
    ],
)
def test_what_cannot_be_made_is_one_sentence(name, settings, sentence):
    with pytest.raises(DataError, match=sentence):
        load_split(name, settings)
