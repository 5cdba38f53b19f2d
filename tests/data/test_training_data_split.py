"""Splitting: by the pictures alone, copies together, every class in both halves, or a sentence why not."""

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from data_kit import levels, noise
from training.data import load_split
from training.data.divide import keep_apart, split_as_given, split_once, sum_levels
from training.errors import DataError

ABC = ["a", "b", "c"]

# Pictures of one pixel, so that many are equal; 60 of them, so that no class is too small.
heaps = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2)), min_size=60, max_size=90)


@settings(max_examples=100)
@given(heap=heaps, seed=st.integers(0, 99))
def test_a_picture_falls_on_one_side_whatever_its_copies_its_classes_and_the_order(heap, seed):
    def split(order):
        pixels = torch.tensor([heap[row][0] for row in order], dtype=torch.uint8).view(-1, 1, 1, 1)
        return split_once("heap", pixels, torch.tensor([heap[row][1] for row in order]), label_names=ABC)

    rows = range(len(heap))
    try:
        one = split(rows)
    except DataError:
        reject()  # a class too small, or of copies only: told, and tested below
    other = split(np.random.default_rng(seed).permutation(len(heap)).tolist())
    train, held_out = set(levels(one.train_pixels)), set(levels(one.held_out_pixels))
    assert not train & held_out
    assert held_out == set(levels(other.held_out_pixels))
    for half in (one.train_labels, one.held_out_labels):
        assert set(half.tolist()) == {0, 1, 2}
    assert len(one.train_labels) + len(one.held_out_labels) == len(heap)


def test_different_pictures_are_split_at_exactly_a_fifth():
    split = split_once("noise", torch.from_numpy(noise(300, 1, 4, 4)), torch.arange(300) % 3, label_names=ABC)
    assert torch.bincount(split.held_out_labels).tolist() == [20, 20, 20]


def test_copies_that_leave_nothing_to_train_on_are_told():
    pixels = torch.cat([torch.from_numpy(noise(20, 1, 2, 2)), torch.zeros(20, 1, 2, 2, dtype=torch.uint8)])
    with pytest.raises(DataError, match="class 'b' of heap has too few different pictures to split"):
        split_once("heap", pixels, torch.arange(40) // 20, label_names=["a", "b"])


@settings(max_examples=50)
@given(train=st.lists(st.integers(0, 9)), held_out=st.lists(st.integers(0, 9)))
def test_what_is_held_out_is_kept_apart(train, held_out):
    digests = [np.array([bytes([value, 0]) for value in half], "S2") for half in (train, held_out)]
    new, notes = keep_apart("set", *digests)
    assert new.tolist() == [value not in held_out for value in train]
    assert notes == (
        []
        if new.all()
        else [f"{(~new).sum()} of {len(new)} train pictures of set are also held out, and not trained on"]
    )


@settings(max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 9), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 99),
)
def test_sums_are_exact(shape, seed):
    pixels = noise(*shape, seed=seed)
    sums, num_pixels = sum_levels(torch.from_numpy(pixels))
    by_channel = pixels.swapaxes(0, 1).reshape(shape[1], -1).astype(object)
    assert num_pixels == by_channel.shape[1]
    assert sums == [(sum(channel), sum(channel**2)) for channel in by_channel]


def test_mean_and_deviation_are_those_of_the_train_half():
    train, held_out = (torch.from_numpy(noise(50, 3, 6, 6, seed=seed)) for seed in (1, 2))
    labels = torch.arange(50) % 2
    split = split_as_given("set", (train, labels), (held_out, labels), label_names=["a", "b"])
    by_channel = train.double().div(255).transpose(0, 1).flatten(1)
    # Rounded to 4 decimals: half of the last one, and a double's own error, far below it.
    np.testing.assert_allclose(split.facts.mean, by_channel.mean(1), rtol=0, atol=0.5e-4 + 1e-12)
    np.testing.assert_allclose(split.facts.std, by_channel.std(1), rtol=0, atol=0.5e-4 + 1e-12)


@pytest.mark.parametrize(
    ("labels", "names", "sentence"),
    [
        ([0, 1, 0, 3], ABC, r"label 3 of picture 3 of the train half of set is out of range 0 \.\. 2"),
        ([0, 1, -1, 2], ABC, r"label -1 of picture 2 of the train half of set is out of range"),
        ([0, 1, 0, 1], ABC, r"class 'c' of the train half of set has no picture"),
        ([0, 0, 0, 0], ["a"], r"has 1 class, at least 2 are needed: a"),
    ],
)
def test_wrong_labels_are_told(labels, names, sentence):
    pixels = torch.from_numpy(noise(4, 1, 2, 2))
    with pytest.raises(DataError, match=sentence):
        split_as_given(
            "set",
            (pixels, torch.tensor(labels)),
            (pixels, torch.tensor([0, 1, 2, 0])),
            label_names=names,
        )


def test_the_held_out_half_needs_every_class_too():
    pixels = torch.from_numpy(noise(4, 1, 2, 2))
    with pytest.raises(DataError, match="class 'b' of the held-out half of set has no picture"):
        split_as_given(
            "set",
            (pixels, torch.tensor([0, 1, 0, 1])),
            (pixels, torch.tensor([0, 0, 0, 0])),
            label_names=["a", "b"],
        )


def test_settings_of_a_set_that_has_none_are_told():
    with pytest.raises(DataError, match="data set digits has no settings, got size"):
        load_split("digits", {"size": "8"})


@pytest.mark.parametrize("name", ["folder", "folder:", "npz", "npz:", "tar:x"])
def test_a_family_needs_its_path(name):
    with pytest.raises(DataError, match=r"unknown data set .*, known: .*folder:PATH, .*npz:PATH, synthetic"):
        load_split(name)
