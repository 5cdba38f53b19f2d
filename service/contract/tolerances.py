"""How far an answer may be from its golden one, and the measurements that this follows from.

In: the measurements of one output.  Out: a bound, which no manifest can state without them.
"""

import math
from abc import ABC, abstractmethod
from typing import Self

from pydantic import model_validator

from service.contract.strict import NonNegative, Strict

FACTOR = 4
ULPS = 4
ULP = 2.0**-23


def derived_tolerance(*, unfolded_error: float, output_range: float) -> float:
    """The maximum |served − golden| that the measurements justify: see `Tolerance`."""
    return FACTOR * unfolded_error + ULPS * ULP * output_range


def int8_tolerance(*, fused_difference: float, step: float, output_range: float) -> float:
    """The maximum |replayed − golden| of an int8 graph's output: see `Int8Tolerance`."""
    return FACTOR * fused_difference + step + ULPS * ULP * output_range


class _Derived(Strict, ABC):
    """A bound that must follow from what was measured."""

    max_abs: NonNegative

    @property
    @abstractmethod
    def derived(self) -> float:
        """The bound by the measurements."""

    @model_validator(mode="after")
    def _follows_from_what_was_measured(self) -> Self:
        if not math.isclose(self.max_abs, self.derived, rel_tol=1e-9):
            raise ValueError(
                f"max_abs must follow from the measurements, {self.derived:.6g}, got {self.max_abs:.6g}"
            )
        return self


class Tolerance(_Derived):
    """Bound on |answer − golden| for one output, and the measurements that it was derived from.

    max_abs = 4 · unfolded_error + 4 · 2⁻²³ · output_range, for IEEE float32 arithmetic (TF32 off).
    """

    unfolded_error: NonNegative
    folded_error: NonNegative
    output_range: NonNegative

    @property
    def derived(self) -> float:
        """See `derived_tolerance`."""
        return derived_tolerance(unfolded_error=self.unfolded_error, output_range=self.output_range)


class Int8Tolerance(_Derived):
    """Bound on |answer − golden int8 answer| for one output, and what it was derived from.

    max_abs = 4 · fused_difference + step + 4 · 2⁻²³ · output_range

    Args:
        fused_difference: max |with ONNX Runtime's optimisations − without any|, both of int8.onnx, over the
            golden rows: the same integers by other kernels, which round some numbers the other way.
        step: how far the output moves if one number of the last int8 tensor is rounded the other way.
        output_range: max |golden int8 answer|.
    """

    fused_difference: NonNegative
    step: NonNegative
    output_range: NonNegative

    @property
    def derived(self) -> float:
        """See `int8_tolerance`."""
        return int8_tolerance(
            fused_difference=self.fused_difference, step=self.step, output_range=self.output_range
        )
