"""What one BatchNormalization does, in float64.

In: a node in inference form.  Out: its scale and shift per channel, or the reason why it has none.

What became of it is a `FoldSite` of the manifest, from the stage that decides it to the report.

    y = scale · x + shift        scale = γ / √(σ² + ε)        shift = β − μ · scale

(Ioffe & Szegedy 2015, algorithm 2; ONNX operator BatchNormalization, axis 1.)

A chain of Mul and Add in a BatchNorm's place (see `export.fold.decomposed`) tells only scale and shift.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from export.compute.comparable import normalises_by_batch
from export.errors import FoldError
from export.fold.decomposed import axis_of, is_decomposed
from export.graph.edit import constant
from service.contract.account import FoldSite

HALF_ULP = 2.0**-24
TINY_VARIANCE = 1e-12
DEFAULT_EPSILON = float(np.float32(1e-5))  # ONNX attributes are float32


@dataclass(frozen=True, kw_only=True)
class Affine:
    """x ↦ scale · x + shift, channel by channel; each float64 of shape (C,)."""

    scale: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Affine):
    """The affine map of one BatchNormalization, and what its statistics tell.

    Args:
        name: the node's.
        axis: of the channels.
        inputs: how large the values are that come in, |μ| + σ, shape (C,).
        outputs: how large those are that go out, |β| + |γ|, shape (C,).
        smallest_variance: the minimum of σ² over the channels; None where it is not known.
        dead_channels: how many channels have γ = 0 or σ² < 1e-12.
        negative_gammas: how many channels have γ < 0.
    """

    name: str
    axis: int = 1
    inputs: np.ndarray
    outputs: np.ndarray
    smallest_variance: float | None
    dead_channels: int
    negative_gammas: int

    def folded(self, how: str, condition: float = 0.0) -> FoldSite:
        """It is gone; `how` says where to.

        `condition`: how many times the BatchNorm's own rounding the fold may add, beside the new weights'.
        """
        return self._site(status="folded", how=how, error_bound=HALF_ULP * (1 + condition))

    def reduced(self, how: str, condition: float = 0.0) -> FoldSite:
        """Less of it is left, an Add per channel."""
        return self._site(status="reduced", how=how, error_bound=HALF_ULP * (1 + condition))

    def declined(self, reason: str) -> FoldSite:
        """It stays."""
        return self._site(status="declined", reason=reason)

    def _site(self, **facts: Any) -> FoldSite:
        return FoldSite(
            name=self.name,
            channels=self.scale.size,
            smallest_variance=self.smallest_variance,
            largest_gain=float(np.abs(self.scale).max()),
            dead_channels=self.dead_channels,
            negative_gammas=self.negative_gammas,
            **facts,
        )


def read_batchnorm(node: ir.Node) -> BatchNorm | FoldSite:
    """Read the node's parameters, or decline it; raises FoldError, with its name, where they are broken."""
    if node.attributes.get_int("training_mode", 0) == 1:
        return _unread(node, "training_mode = 1: it normalises by each batch, not by running statistics")
    if normalises_by_batch(node):
        return _unread(node, "its batch statistics are outputs: it normalises by each batch")
    if is_by_position(node):
        return _unread(
            node,
            "spatial = 0: its statistics are per position, not per channel: no layer holds such",
        )
    names = ("γ", "β", "μ", "σ²")
    arrays = [constant(value) for value in node.inputs[1:5]]
    if computed := [name for name, array in zip(names, arrays, strict=True) if array is None]:
        return _unread(node, f"{', '.join(computed)} computed at run time")
    gamma, beta, mean, variance = (np.asarray(array, dtype=np.float64) for array in arrays)
    _check_sizes(node, dict(zip(names, (gamma, beta, mean, variance), strict=True)))
    epsilon = node.attributes.get_float("epsilon", DEFAULT_EPSILON)
    for name, array in zip(names, (gamma, beta, mean, variance), strict=True):
        if not np.isfinite(array).all():
            raise FoldError(f"BatchNorm '{node.name}': {name} holds values that are not finite")
    if (variance + epsilon <= 0).any():
        raise FoldError(
            f"BatchNorm '{node.name}': σ² + ε must be above 0, found {variance.min() + epsilon:.3g}"
        )
    if is_decomposed(node):
        return _of_chain(node, gamma, beta)
    scale = gamma / np.sqrt(variance + epsilon)
    return BatchNorm(
        name=node.name or "",
        scale=scale,
        shift=beta - mean * scale,
        inputs=np.abs(mean) + np.sqrt(np.maximum(variance, 0)),
        outputs=np.abs(beta) + np.abs(gamma),
        smallest_variance=float(variance.min()),
        dead_channels=int(((variance < TINY_VARIANCE) | (gamma == 0)).sum()),
        negative_gammas=int((gamma < 0).sum()),
    )


def _check_sizes(node: ir.Node, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise FoldError unless each has one number for each channel: not every file was run before."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if odd := [f"{name} has shape {shape}" for name, shape in shapes.items() if len(shape) != 1]:
        raise FoldError(
            f"BatchNorm '{node.name}': {odd[0]}, expected one axis, its channels: reshape it in the file"
        )
    sizes = {name: shape[0] for name, shape in shapes.items()}
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    channels = shape[axis_of(node)] if shape is not None and len(shape) > axis_of(node) else None
    if isinstance(channels, int):
        sizes["its input"] = channels
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise FoldError(
            f"BatchNorm '{node.name}': {found}, expected one number for each channel: export the net again"
        )


def is_by_position(node: ir.Node) -> bool:
    """Whether γ, β, μ and σ² are of shape (C, H, W, …): with `spatial` = 0, which opset 9 took out.

    Of a tensor (N, C) that is the usual BatchNorm; one of unknown rank may be either.
    """
    source = node.inputs[0]
    is_flat = source is not None and source.shape is not None and len(source.shape) == 2
    return node.attributes.get_int("spatial", 1) == 0 and not is_flat


def _of_chain(node: ir.Node, scale: np.ndarray, shift: np.ndarray) -> BatchNorm:
    """As if y had mean 0 and variance 1: then |x| is about (|t| + 1) / |s|."""
    gain = np.abs(scale)
    return BatchNorm(
        name=node.name or "",
        axis=axis_of(node),
        scale=scale,
        shift=shift,
        inputs=(np.abs(shift) + 1) / np.where(gain == 0, 1, gain),
        outputs=np.ones(scale.size),
        smallest_variance=None,
        dead_channels=int((scale == 0).sum()),
        negative_gammas=int((scale < 0).sum()),
    )


def _unread(node: ir.Node, reason: str) -> FoldSite:
    return FoldSite(name=node.name or "", status="declined", reason=reason)
