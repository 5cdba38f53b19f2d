"""Sigmoid for ONNX's reference implementation.

    y = 1 / (1 + exp(−x))

ONNX's own computes both of its branches, three exponentials, for every number: as long as a net's
convolutions. Where exp(−x) is infinite, y is 0, as float64 has it.
"""

import numpy as np
from onnx.reference.op_run import OpRun


class Sigmoid(OpRun):
    """ONNX operator Sigmoid."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        with np.errstate(over="ignore"):
            return ((1 / (1 + np.exp(-x))).astype(x.dtype),)
