"""The range of every tensor: from BatchNorm statistics, or from rows.

In: a folded graph with moments, or what rows showed.  Out: (low, high) by name, and where each is from.

    6 sigma              min over channels of mean − 6σ … max over channels of mean + 6σ, through every clip
    minmax               the extremes of the rows
    least squared error  the ends that make the rounding's mean squared error least, found on histograms
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.graph.moments import moments_of
from export.int8.bounds import hard_bounds
from export.int8.moments import carry_moments
from export.int8.observe import NUM_BINS, Seen
from service.contract.int8 import RangeSource
from service.contract.tensors import TensorSpec

LEVELS = 255
_SHRINKS = np.linspace(0.3, 1.0, 36)


@dataclass(frozen=True, kw_only=True)
class TensorRanges:
    """A range for each tensor, where it is from, and E[x] along axis 1."""

    ranges: Mapping[str, tuple[float, float]]
    sources: Mapping[str, RangeSource]
    means: Mapping[str, np.ndarray]


def from_statistics(
    folded: ir.Model, shown: Mapping[str, Seen], specs: Sequence[TensorSpec], where: RangeSource
) -> TensorRanges:
    """6σ where moments are known; the declared range of an input; elsewhere what the rows of `where` show."""
    carry_moments(folded)
    bounds = hard_bounds(folded, specs)
    inputs = {spec.name for spec in specs}
    values = {value.name: value for node in folded.graph for value in node.outputs}
    ranges: dict[str, tuple[float, float]] = {}
    sources: dict[str, RangeSource] = {}
    means: dict[str, np.ndarray] = {}
    for name, seen in shown.items():
        moments = moments_of(values.get(name))
        low, high = bounds.get(name, (-np.inf, np.inf))
        if moments is not None:
            ranges[name] = max(low, float(moments.low.min())), min(high, float(moments.high.max()))
            sources[name], means[name] = "batchnorm", _broad(moments.mean, seen.mean.size)
        elif name in inputs and name in bounds:
            ranges[name], sources[name] = (low, high), "declared"
        else:
            ranges[name], sources[name] = (seen.low, seen.high), where
    return TensorRanges(ranges=ranges, sources=sources, means=means)


def _broad(mean: np.ndarray, size: int) -> np.ndarray:
    return np.broadcast_to(mean.ravel(), size) if mean.size == 1 else mean.ravel()


def from_rows(seen: Mapping[str, Seen], *, squared_error: bool) -> TensorRanges:
    """The extremes of the rows, or the ends with the least squared error."""
    ranges = {
        name: least_squared_error(one) if squared_error else (one.low, one.high) for name, one in seen.items()
    }
    return TensorRanges(
        ranges=ranges,
        sources=dict.fromkeys(seen, "rows"),
        means={name: one.mean for name, one in seen.items()},
    )


def least_squared_error(seen: Seen) -> tuple[float, float]:
    """The range whose rounding and clipping have the least squared error over the histogram."""
    if not seen.high > seen.low or not seen.bins.any():
        return seen.low, seen.high
    edges = np.linspace(seen.low, seen.high, NUM_BINS + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    lows = seen.low * _SHRINKS if seen.low < 0 else np.zeros(1)
    highs = seen.high * _SHRINKS if seen.high > 0 else np.zeros(1)
    rounded = np.where((edges[:-1] <= 0) & (edges[1:] >= 0), 0.0, seen.bins)  # 0 is a level of its own
    best, found = np.inf, (seen.low, seen.high)
    for low in lows:
        for high in highs:
            scale = (high - low) / LEVELS
            if scale <= 0:
                continue
            clipped = np.clip(middles, low, high)
            # Inside the range a number is rounded: scale² / 12. What is cut off errs by its distance.
            inside = rounded[(middles >= low) & (middles <= high)].sum()
            error = (seen.bins * (middles - clipped) ** 2).sum() + inside * scale**2 / 12
            if error < best:
                best, found = error, (float(low), float(high))
    return found
