"""Golden rows whose answers the unfolded graph itself does not keep.

In: the unfolded graph and golden rows.  Out: which of them it answers beyond its own tolerance.

    y = log(|x| + ε), then (y − min y) / (max y − min y)        of silence both are rounding

The answer to such a row depends on how ONNX Runtime vectorises a batch, and proves nothing of a fold.
The unfolded graph is run as it would be served; where that keeps to its tolerance, a fold is to blame.

    arange(30) < 0.4 · 30        12 in float32, 12.0000002 in float64: one place more or less

The answer to such a row is another one in float32.  A tolerance follows from the row that float32 answers
worst, and would let everything pass.
"""

from collections.abc import Mapping

import numpy as np

from export.compute.runtime import load
from service.contract.bundle import Golden
from service.contract.parity import BUCKETS, allowed, batches, filling, joined, measure
from service.contract.tolerances import derived_tolerance

DECIDED = 1e-3
"""Of an output's range, and MANY times the median row's error: from here on it is no rounding.

float32 noise over a zoo of nets is 10⁻⁷ to 10⁻⁵ of the range, and one net's rows lie within two decades; a
place that a comparison decides otherwise moves an answer by the share that the place has in it.
"""
MANY = 1000.0


def decided_rows(unfolded: bytes, golden: Golden, max_rows: int | None) -> np.ndarray:
    """Bool of shape (rows,): those that some comparison decides otherwise in float32 than in float64."""
    run, is_decided = load(unfolded, optimised=False), np.zeros(golden.num_rows, dtype=bool)
    found = joined([run(inputs) for inputs in batches(golden.inputs, max_rows or golden.num_rows)])
    for name, truth in golden.outputs.items():
        if found[name].shape != truth.shape:
            continue  # the proof says so
        with np.errstate(invalid="ignore"):
            errors = np.abs(found[name].astype(np.float64) - truth).reshape(golden.num_rows, -1)
        worst = errors.max(axis=1, initial=0.0)
        limit = max(DECIDED * float(np.abs(truth).max(initial=0.0)), MANY * float(np.median(worst)))
        is_decided |= worst > limit
    return is_decided


def unsteady_rows(
    unfolded: bytes, golden: Golden, noise: Mapping[str, float], max_rows: int | None
) -> np.ndarray:
    """Bool of shape (rows,).  `noise` and `max_rows` are as of `export.proof.prove.prove`."""
    measured = measure(load(unfolded, optimised=False), golden, (), max_rows).worst
    limits = {
        name: derived_tolerance(
            unfolded_error=max(measured[name], noise.get(name, 0.0)),
            output_range=float(np.abs(answers).max(initial=0.0)),
        )
        for name, answers in golden.outputs.items()
    }
    run, is_unsteady = load(unfolded, optimised=True), np.zeros(golden.num_rows, dtype=bool)
    for size in allowed(BUCKETS, max_rows):
        for rows in filling(golden.num_rows, size):
            found = run({name: array[rows] for name, array in golden.inputs.items()})
            for name, limit in limits.items():
                apart = np.abs(found[name].astype(np.float64) - golden.outputs[name][rows])
                is_unsteady[rows[~(apart.reshape(len(rows), -1).max(axis=1, initial=0.0) <= limit)]] = True
    return is_unsteady
