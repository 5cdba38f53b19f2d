"""What is known of a tensor's numbers without any data: mean, deviation and bounds of each channel.

They are kept with the tensor itself (`ir.Value.meta`), so that they survive copies of a graph, and a fold
moves them along: where a tensor is stored otherwise, or stands for another one, they change with it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

_KEY = "moments"
SIGMAS = 6.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Arrays that broadcast to the tensor, such as (1, C, 1, 1); `low` and `high` are bounds."""

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def stored(self, a: np.ndarray, b: np.ndarray) -> "Moments":
        """Those of a · (x + b)."""
        ends = a * (self.low + b), a * (self.high + b)
        return Moments(
            mean=a * (self.mean + b), std=np.abs(a) * self.std, low=np.minimum(*ends), high=np.maximum(*ends)
        )


def normal(mean: np.ndarray, std: np.ndarray) -> Moments:
    """A normal that is cut at 6σ."""
    return Moments(mean=mean, std=std, low=mean - SIGMAS * std, high=mean + SIGMAS * std)


def moments_of(value: ir.Value | None) -> Moments | None:
    """What is known of a tensor, None if nothing is."""
    return None if value is None else value.meta.get(_KEY)


def know(value: ir.Value, moments: Moments | None) -> None:
    """Keep the moments with a tensor; None: nothing is known of it any more."""
    if moments is None:
        value.meta.pop(_KEY, None)
    else:
        value.meta[_KEY] = moments


def forget(values: Iterable[ir.Value]) -> None:
    """Nothing is known of these tensors any more."""
    for value in values:
        know(value, None)
