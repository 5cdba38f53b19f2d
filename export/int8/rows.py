"""Rows to calibrate with, read batch by batch.

In: arrays, or the net's inputs alone.  Out: `Rows`, whose passes each give the same batches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.contract.tensors import TensorSpec

Arrays = dict[str, np.ndarray]

BATCH = 8
NUM_MADE = 64


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Up to BATCH rows of every input, and their labels (n,) where they are known."""

    inputs: Arrays
    labels: np.ndarray | None

    def part(self, rows: np.ndarray) -> "Batch":
        """Some of its rows."""
        return Batch(
            inputs={name: array[rows] for name, array in self.inputs.items()},
            labels=None if self.labels is None else self.labels[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Any number of rows; `read` starts a new pass over them, `words` says where they are from."""

    num_rows: int
    read: Callable[[], Iterator[Batch]]
    words: str

    def split(self, step: int) -> tuple["Rows", "Rows"]:
        """Every `step`th row, from the first on, and all others: data sets are often sorted."""

        def part(is_fit: bool) -> Callable[[], Iterator[Batch]]:
            def read() -> Iterator[Batch]:
                first = 0
                for batch in self.read():
                    size = len(next(iter(batch.inputs.values())))
                    rows = np.flatnonzero((np.arange(first, first + size) % step == 0) == is_fit)
                    first += size
                    if rows.size:
                        yield batch.part(rows)

            return read

        number = -(-self.num_rows // step)
        return (
            Rows(num_rows=number, read=part(True), words=self.words),
            Rows(num_rows=self.num_rows - number, read=part(False), words=self.words),
        )


def of_arrays(inputs: Arrays, labels: np.ndarray | None, words: str, batch: int = BATCH) -> Rows:
    """Rows that are in memory."""
    number = len(next(iter(inputs.values())))

    def read() -> Iterator[Batch]:
        whole = Batch(inputs=inputs, labels=labels)
        for start in range(0, number, batch):
            yield whole.part(np.arange(start, min(start + batch, number)))

    return Rows(num_rows=number, read=read, words=words)


def made_rows(specs: Sequence[TensorSpec], seed: int, batch: int = BATCH) -> Rows | None:
    """Rows like those that a net was trained on, where there are none: None if an input takes no floats.

    Pictures, whose range is declared, are smooth: their noise falls with frequency, 1 / f.  Other rows are
    normal, with mean 0 and deviation 1.
    """
    random = np.random.default_rng(seed)
    if not all(spec.dtype.startswith("float") for spec in specs):
        return None
    inputs = {}
    for spec in specs:
        array = random.normal(size=(NUM_MADE, *spec.row_shape))
        if spec.minimum is not None and spec.maximum is not None:
            if len(spec.row_shape) == 3:
                array = _smooth(array)
            middle, width = (spec.minimum + spec.maximum) / 2, (spec.maximum - spec.minimum) / 4
            array = np.clip(middle + width * array, spec.minimum, spec.maximum)
        inputs[spec.name] = array.astype(spec.dtype)
    return of_arrays(inputs, None, "made rows", batch)


def _smooth(noise: np.ndarray) -> np.ndarray:
    """Noise (N, C, H, W) with a spectrum that falls as 1 / f, of deviation 1."""
    frequencies = [np.fft.fftfreq(size) for size in noise.shape[-2:]]
    falls = 1 / np.maximum(np.hypot(frequencies[0][:, None], frequencies[1]), 1 / max(noise.shape[-2:]))
    smooth = np.fft.ifft2(np.fft.fft2(noise) * falls).real
    return np.asarray(smooth / np.maximum(smooth.std(axis=(1, 2, 3), keepdims=True), 1e-12))
