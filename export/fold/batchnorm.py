"""What one BatchNormalization does, in float64.

In: a node in inference form.  Out: its scale and shift per channel, or the reason why it has none.

    y = scale · x + shift        scale = γ / √(σ² + ε)        shift = β − μ · scale

(Ioffe & Szegedy 2015, algorithm 2; ONNX operator BatchNormalization, axis 1.)
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.errors import FoldError
from export.graph.edit import constant

TINY_VARIANCE = 1e-12
DEFAULT_EPSILON = float(np.float32(1e-5))  # ONNX attributes are float32


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A BatchNorm that is gone, and how.

    `condition`: how many times the BatchNorm's own rounding the fold may add, beside that of the new weights.
    """

    how: str
    condition: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """A BatchNorm of which less is left, an Add per channel, and how."""

    how: str
    condition: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Declined:
    """A BatchNorm that stays, and why."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Health:
    """What the statistics of one BatchNorm look like, over its channels."""

    channels: int
    smallest_variance: float
    largest_gain: float
    dead_channels: int
    negative_gammas: int


@dataclass(frozen=True, kw_only=True)
class Affine:
    """x ↦ scale · x + shift, channel by channel; each float64 of shape (C,)."""

    scale: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Affine):
    """The affine map of one BatchNormalization, and what its statistics tell.

    Args:
        inputs: how large the values are that come in, |μ| + σ, shape (C,).
        outputs: how large those are that go out, |β| + |γ|, shape (C,).
    """

    inputs: np.ndarray
    outputs: np.ndarray
    health: Health


def read_batchnorm(node: ir.Node) -> BatchNorm | Declined:
    """Read the node's parameters; raises FoldError, with the layer's name, where they are broken."""
    if node.attributes.get_int("training_mode", 0) == 1:
        return Declined(reason="training_mode = 1: it normalises by each batch, not by running statistics")
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return Declined(reason="its batch statistics are read: it is in training form")
    if node.attributes.get_int("spatial", 1) == 0:
        return Declined(reason="spatial = 0: its statistics are per position, not per channel")
    names = ("γ", "β", "μ", "σ²")
    arrays = [constant(value) for value in node.inputs[1:5]]
    if computed := [name for name, array in zip(names, arrays, strict=True) if array is None]:
        return Declined(reason=f"{', '.join(computed)} computed at run time")
    gamma, beta, mean, variance = (np.asarray(array, dtype=np.float64) for array in arrays)
    epsilon = node.attributes.get_float("epsilon", DEFAULT_EPSILON)
    for name, array in zip(names, (gamma, beta, mean, variance), strict=True):
        if not np.isfinite(array).all():
            raise FoldError(f"BatchNorm '{node.name}': {name} holds values that are not finite")
    if (variance + epsilon <= 0).any():
        raise FoldError(
            f"BatchNorm '{node.name}': σ² + ε must be above 0, found {variance.min() + epsilon:.3g}"
        )
    scale = gamma / np.sqrt(variance + epsilon)
    health = Health(
        channels=gamma.size,
        smallest_variance=float(variance.min()),
        largest_gain=float(np.abs(scale).max()),
        dead_channels=int(((variance < TINY_VARIANCE) | (gamma == 0)).sum()),
        negative_gammas=int((gamma < 0).sum()),
    )
    return BatchNorm(
        scale=scale,
        shift=beta - mean * scale,
        inputs=np.abs(mean) + np.sqrt(np.maximum(variance, 0)),
        outputs=np.abs(beta) + np.abs(gamma),
        health=health,
    )
