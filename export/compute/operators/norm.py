"""BatchNormalization, LRN and LpNormalization for ONNX's reference implementation.

    BatchNormalization    y = γ · (x − μ) / √(σ² + ε) + β       with the batch's μ and σ² if training_mode = 1
    LRN                   y = x / (bias + α/size · Σ x²)^β      over the `size` channels around each
    LpNormalization       y = x / (Σ |x|ᵖ)^(1/p)                0 where all are 0

ONNX's own BatchNormalization (1.23) takes the batch's statistics instead of the running ones below opset
14, its LRN counts rows for channels, and its LpNormalization sums x of both signs.
"""

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun


class BatchNormalization(OpRun):
    """ONNX operator BatchNormalization on (N, C, …), with running statistics at every opset."""

    def _run(
        self,
        x: np.ndarray,
        gamma: np.ndarray,
        beta: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        **attributes: Any,
    ) -> tuple[np.ndarray, ...]:
        training = bool(attributes.get("training_mode"))
        if len(self.output) > 1 and not training:
            raise ValueError("a BatchNormalization with batch statistics as outputs, below opset 14")
        momentum = 0.9 if attributes.get("momentum") is None else attributes["momentum"]
        running = (mean, variance)
        if training:
            axes = (0, *range(2, x.ndim))
            mean, variance = x.mean(axis=axes), x.var(axis=axes)
        updated = [
            momentum * old + (1 - momentum) * new for old, new in zip(running, (mean, variance), strict=True)
        ]
        by_channel = [array.reshape(-1, *[1] * (x.ndim - 2)) for array in (gamma, beta, mean, variance)]
        gamma, beta, mean, variance = by_channel
        epsilon = 1e-5 if attributes.get("epsilon") is None else attributes["epsilon"]
        y = gamma * (x - mean) / np.sqrt(variance + epsilon) + beta
        return (y, *updated)[: len(self.output)]


class LRN(OpRun):
    """ONNX operator LRN on (N, C, …)."""

    def _run(self, x: np.ndarray, **attributes: Any) -> tuple[np.ndarray]:
        size, channels = attributes["size"], x.shape[1]
        alpha, beta, bias = (
            default if attributes.get(name) is None else attributes[name]
            for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
        )
        before, after = (size - 1) // 2, size // 2
        sums = np.stack(
            [
                (x[:, max(0, channel - before) : channel + after + 1] ** 2).sum(axis=1)
                for channel in range(channels)
            ],
            axis=1,
        )
        return (x / (bias + alpha / size * sums) ** beta,)


class LpNormalization(OpRun):
    """ONNX operator LpNormalization."""

    def _run(self, x: np.ndarray, axis: int | None = None, p: int | None = None) -> tuple[np.ndarray]:
        norm = np.linalg.norm(x, ord=p or 2, axis=-1 if axis is None else axis, keepdims=True)
        return (np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm)).astype(x.dtype),)
