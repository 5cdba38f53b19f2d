"""How far are a tool's answers from the truth, and are they still correct?

In: answers and true answers, an array for each output.  Out: the worst error.

    error = max |answer − truth| / max |truth|
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.fold_zoo.store import Row

ULP = 2.0**-23
WRONG = 100
"""An answer this many times further off than float32's own noise is wrong; correct tools stay within 4."""


def worst_error(answers: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    """The error of the worst output; infinite if the number of outputs differs."""
    if len(answers) != len(truth):
        return float("inf")
    return max(relative_error(*pair) for pair in zip(answers, truth, strict=True))


def relative_error(answer: np.ndarray, truth: np.ndarray) -> float:
    """The largest difference, relative to the largest |truth|; infinite if not comparable or non-finite."""
    if answer.shape != truth.shape or not np.isfinite(answer).all():
        return float("inf")
    return float(np.abs(answer - truth).max() / max(np.abs(truth).max(), 1e-300))


def is_right(row: Row) -> bool:
    """Whether the row's error could be float32's noise; False if it is NaN or unknown."""
    if row.error is None or row.unfolded_error is None:
        return False
    return row.error <= WRONG * (row.unfolded_error + ULP)
