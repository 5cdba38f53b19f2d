"""The inputs of the golden rows: what the net will meet, and the edges of it.

In: the graph's input tensors, and held-out rows if there are any.
Out: N ≥ 32 rows for each input: held-out rows, zeros, ones, the range's ends, checkerboards, noise.
"""

from collections.abc import Sequence

import numpy as np

from service.contract.manifest import MIN_GOLDEN_ROWS
from service.contract.tensors import TensorSpec

MAX_HELD_OUT = 24
NUM_NOISE = 8
MIN_MADE = 8  # the six that are drawn, and two of noise
UNKNOWN_RANGE = (-3.0, 3.0)

Arrays = dict[str, np.ndarray]


def golden_inputs(
    specs: Sequence[TensorSpec],
    held_out: np.ndarray | None,
    seed: int,
    spare: int = 0,
    num_rows: int = MIN_GOLDEN_ROWS,
) -> Arrays:
    """Inputs (N, …) in each tensor's dtype.

    `held_out` are rows of the only input; `num_rows` are wanted, and `spare` ones more.
    """
    random = np.random.default_rng(seed)
    num_held_out = 0 if held_out is None else min(len(held_out), MAX_HELD_OUT)
    num_made = max(num_rows - num_held_out, min(NUM_NOISE + 6, num_rows)) + spare
    made = {spec.name: _made_rows(spec, num_made, random) for spec in specs}
    if held_out is None or num_held_out == 0:
        return made
    assert len(specs) == 1, "held-out rows fit a net with one input"
    name = specs[0].name
    return {name: np.concatenate([held_out[:num_held_out].astype(specs[0].dtype), made[name]])}


def blended_inputs(
    given: Arrays, seed: int, spare: int = 0, num_rows: int = MIN_GOLDEN_ROWS, *, are_kept: bool = True
) -> Arrays:
    """The rows that are given, unless not kept, and mixtures of two of them until they are enough.

    What an op computes with is mostly convex (positive numbers, probabilities, a range), so that a mixture
    a·x + (1 − a)·y of two rows is a row too.  Integers are no quantities: of these, x is taken.
    """
    random = np.random.default_rng(seed)
    num_given = len(next(iter(given.values())))
    first = np.arange(min(num_given, MAX_HELD_OUT, num_rows) if are_kept else 0)
    num_made = max(num_rows - len(first), 0) + spare
    one, other = random.integers(0, num_given, (2, num_made))
    share = random.uniform(size=num_made)

    def rows(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind != "f":
            return np.concatenate([array[first], array[one]])
        weight = share.reshape(-1, *[1] * (array.ndim - 1))
        mixed = weight * array[one].astype(np.float64) + (1 - weight) * array[other]
        return np.concatenate([array[first], mixed.astype(array.dtype)])

    return {name: rows(array) for name, array in given.items()}


def input_range(spec: TensorSpec) -> tuple[float, float]:
    """The tensor's range as the manifest gives it, else that of its integers, else ±3 (normalised floats)."""
    if spec.minimum is not None and spec.maximum is not None:
        return spec.minimum, spec.maximum
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b" or (dtype.kind == "i" and dtype.itemsize > 1):
        return 0, 1  # indices: 0 and 1 are the only ones that every table has
    if dtype.kind in "iu":
        return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    return UNKNOWN_RANGE


def _made_rows(spec: TensorSpec, num_rows: int, random: np.random.Generator) -> np.ndarray:
    shape, (low, high) = spec.row_shape, input_range(spec)
    checkers = np.indices(shape).sum(axis=0) % 2 == 0
    rows = [
        np.zeros(shape),
        np.ones(shape),
        np.full(shape, low),
        np.full(shape, high),
        np.where(checkers, low, high),
        np.where(checkers, high, low),
    ]
    while len(rows) < max(num_rows, MIN_MADE):
        uniform = random.uniform(low, high, shape)
        rows.append(uniform if len(rows) % 2 else np.clip(uniform + random.normal(0, 0.1, shape), low, high))
    array = np.stack(rows[-num_rows:])  # the last ones say most, where few are wanted
    return (
        array.round().astype(spec.dtype) if np.dtype(spec.dtype).kind in "iub" else array.astype(spec.dtype)
    )
