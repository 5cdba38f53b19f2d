"""Golden rows whose answers the unfolded graph itself does not keep.

In: the unfolded graph and golden rows.  Out: which of them it answers beyond its own tolerance.

    y = log(|x| + ε), then (y − min y) / (max y − min y)        of silence both are rounding

The answer to such a row depends on how ONNX Runtime vectorises a batch, and proves nothing of a fold.
The unfolded graph is run as it would be served; where that keeps to its tolerance, a fold is to blame.
"""

from collections.abc import Mapping

import numpy as np

from export.compute.runtime import load
from service.contract.bundle import Golden
from service.contract.parity import BUCKETS, allowed, filling, measure
from service.contract.tolerances import derived_tolerance


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
