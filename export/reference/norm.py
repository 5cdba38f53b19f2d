"""BatchNormalization for ONNX's reference implementation, in inference form at every opset.

    y = γ · (x − μ) / √(σ² + ε) + β

ONNX's own (1.23) takes the batch's statistics instead of the running ones below opset 14.
"""

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun


class BatchNormalization(OpRun):
    """ONNX operator BatchNormalization on (N, C, …), not in training form."""

    def _run(
        self,
        x: np.ndarray,
        gamma: np.ndarray,
        beta: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        **attributes: Any,
    ) -> tuple[np.ndarray]:
        if attributes.get("training_mode") or len(self.output) > 1:
            raise ValueError("a BatchNormalization in training form: its answers depend on the batch")
        by_channel = [array.reshape(-1, *[1] * (x.ndim - 2)) for array in (gamma, beta, mean, variance)]
        gamma, beta, mean, variance = by_channel
        epsilon = 1e-5 if attributes.get("epsilon") is None else attributes["epsilon"]
        return (gamma * (x - mean) / np.sqrt(variance + epsilon) + beta,)
