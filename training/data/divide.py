"""From labelled pictures to a `Split`: what is held out, and what a net must know.

In: pictures (uint8, NCHW) and labels (int64), in one set or in the two halves that their makers chose.
Out: a `Split`, or a DataError in one sentence.

A picture's place depends on its own pixels and on a key only: neither on the training seed, nor on the order
of the file, nor on the version of any random generator. Equal pictures go together, so copies don't leak from
one half to the other.

    mean = Σ k·n_k / (255 n)        std² = (n Σ k²·n_k − (Σ k·n_k)²) / (255² n (n − 1))

with n_k pixels of level k in a channel, n in all: whole numbers until the last division.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from training.data.facts import DataFacts
from training.data.split import Split
from training.data.streamed import Pixels
from training.errors import DataError
from training.pictures.digest import DIGEST_SIZE, digest_pixels

HELD_OUT_SHARE = 0.2
CHUNK_ROWS = 4096


def split_once(name: str, pixels_u8_nchw: Tensor, labels: Tensor, *, label_names: list[str]) -> Split:
    """Hold out the same share of each class, chosen by a keyed digest of each picture's pixels."""
    check_labels(name, labels, label_names)
    digests = digest_pictures(pixels_u8_nchw)
    held_out = torch.from_numpy(choose_held_out(name, digests, labels.numpy(), label_names))
    split = split_as_given(
        name,
        (pixels_u8_nchw[~held_out], labels[~held_out]),
        (pixels_u8_nchw[held_out], labels[held_out]),
        label_names=label_names,
    )
    return replace(split, is_divided_here=True)


def split_as_given(
    name: str,
    train: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    *,
    label_names: list[str],
    notes: Sequence[str] = (),
) -> Split:
    """The halves as their makers chose them; each has every class."""
    for half, (_, labels) in (("train", train), ("held-out", held_out)):
        check_labels(f"the {half} half of {name}", labels, label_names)
    sums, num_pixels = sum_levels(train[0])
    return build_split(name, label_names, sums, num_pixels, train, held_out, notes)


def build_split(
    name: str,
    label_names: list[str],
    sums: list[tuple[int, int]],
    num_pixels: int,
    train: tuple[Pixels, Tensor],
    held_out: tuple[Pixels, Tensor],
    notes: Sequence[str] = (),
) -> Split:
    """`sums` holds Σ k·n_k and Σ k²·n_k for each channel of the train half; a channel has `num_pixels`."""
    _, channels, height, width = train[0].shape
    try:
        facts = DataFacts(
            name=name,
            labels=label_names,
            input_shape=(channels, height, width),
            mode="L" if channels == 1 else "RGB",
            mean=[round(first / num_pixels / 255, 4) for first, _ in sums],
            std=[round(_deviation(first, second, num_pixels), 4) for first, second in sums],
        )
    except ValueError as error:
        raise DataError(f"{name}: {error}") from None
    return Split(
        facts=facts,
        train_pixels=train[0],
        train_labels=train[1],
        held_out_pixels=held_out[0],
        held_out_labels=held_out[1],
        notes=tuple(notes),
    )


def check_labels(name: str, labels: Tensor, label_names: list[str]) -> None:
    """Raise DataError unless there are classes, each label is one of them, and each has a picture."""
    num_classes = len(label_names)
    if num_classes < 2:
        raise DataError(f"{name} has {num_classes} class, at least 2 are needed: {', '.join(label_names)}")
    wrong = torch.nonzero((labels < 0) | (labels >= num_classes)).flatten()
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"label {int(labels[row])} of picture {row} of {name} is out of range 0 .. {num_classes - 1}"
        )
    empty = torch.nonzero(torch.bincount(labels, minlength=num_classes) == 0).flatten()
    if len(empty):
        raise DataError(f"class {label_names[int(empty[0])]!r} of {name} has no picture")


def choose_held_out(name: str, digests: np.ndarray, labels: np.ndarray, label_names: list[str]) -> np.ndarray:
    """Which of the pictures (N, bool) are held out: of each class those with the smallest digests."""
    chosen = np.zeros(len(labels), bool)
    is_listed = name.startswith(("folder:", "table:"))  # those have that setting
    for label, label_name in enumerate(label_names):
        rows = np.flatnonzero(labels == label)
        num_held_out = round(len(rows) * HELD_OUT_SHARE)
        if not 0 < num_held_out < len(rows):
            pictures = "1 picture" if len(rows) == 1 else f"{len(rows)} pictures"
            raise DataError(
                f"class {label_name!r} of {name} has {pictures}, too few to split: at least 3 are needed; "
                f"leave it out{' with --data-setting min_pictures=3' if is_listed else ''}"
            )
        chosen[rows[np.argsort(digests[rows], kind="stable")[:num_held_out]]] = True
    held_out: np.ndarray = np.isin(digests, digests[chosen])
    for label, label_name in enumerate(label_names):
        if held_out[labels == label].all():
            raise DataError(f"class {label_name!r} of {name} has too few different pictures to split")
    return held_out


def keep_apart(name: str, train: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Which train pictures (N, bool) are not also held out, by their digests; and a note if some are."""
    new: np.ndarray = ~np.isin(train, held_out)
    num_old = len(new) - int(new.sum())
    note = f"{num_old} of {len(new)} train pictures of {name} are also held out, and not trained on"
    return new, [note] if num_old else []


def digest_pictures(pixels_u8_nchw: Tensor) -> np.ndarray:
    """(N,) digests, which sort and compare as their bytes do."""
    pictures = pixels_u8_nchw.numpy()
    return np.array([digest_pixels(picture.tobytes()) for picture in pictures], f"S{DIGEST_SIZE}")


def sum_levels(pixels_u8_nchw: Tensor) -> tuple[list[tuple[int, int]], int]:
    """Σ k·n_k and Σ k²·n_k of each channel, and how many pixels a channel has."""
    num_rows, channels, height, width = pixels_u8_nchw.shape
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for chunk in torch.split(pixels_u8_nchw, CHUNK_ROWS):
        for channel in range(channels):
            counts[channel] += torch.bincount(chunk[:, channel].flatten(), minlength=256)
    levels = torch.arange(256)
    first, second = (counts * levels).sum(1).tolist(), (counts * levels**2).sum(1).tolist()
    return list(zip(first, second, strict=True)), num_rows * height * width


def _deviation(first: int, second: int, num_pixels: int) -> float:
    return math.sqrt((num_pixels * second - first**2) / (num_pixels * max(num_pixels - 1, 1))) / 255
