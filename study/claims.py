"""What articles claim, what was measured, and one rule for all that says whether it held.

In: one value per seed, counted so that the claim predicts a value above `margin`.  Out: a verdict.

    d̄ ± t(n − 1) · s / √n          mean and 95 % interval (Student) over the n seeds

    held            the whole interval lies above the margin
    did not hold    the whole interval lies at or below it
    not decided     the margin lies inside

Values are paired: for one seed both nets begin with the same weights and see the same batches, so what the
seed does to both cancels.  Rule and margins were fixed before the study's seeds were run.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from study.lab import StudyError

Verdict = Literal["held", "did not hold", "not decided"]

# Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom (any statistics text's table).
STUDENT_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)  # fmt: skip
MIN_SEEDS, MAX_SEEDS = 2, len(STUDENT_T) + 1


@dataclass(frozen=True)
class Unit:
    """What a claim's values count, and how one is put in words; `falls` where more is shown as less."""

    name: str
    show: Callable[[float], str]
    falls: bool = False


POINTS = Unit("share of rows", lambda share: f"{100 * share:+.1f} points")
FACTOR = Unit("log₂ of a ratio", lambda log: f"{2**log:.2f} ×")
DECADES = Unit("log₁₀ of a ratio", lambda log: f"10^{log:+.1f}")
NEGATIVE_DECADES = Unit("−log₁₀ of a ratio", lambda log: f"10^{-log:+.1f}", falls=True)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence of an article, and one number for each seed."""

    text: str
    measured_by: str
    values: tuple[float, ...]
    margin: float
    unit: Unit

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean, low and high."""
        reach = half_width(self.values)
        return self.mean - reach, self.mean + reach

    @property
    def verdict(self) -> Verdict:
        """By the rule above."""
        low, high = self.interval
        if low > self.margin:
            return "held"
        return "did not hold" if high <= self.margin else "not decided"


def half_width(values: Sequence[float]) -> float:
    """Of the 95 % interval of their mean."""
    if not MIN_SEEDS <= len(values) <= MAX_SEEDS:
        raise StudyError(f"seeds must lie in {MIN_SEEDS} .. {MAX_SEEDS}, got {len(values)}")
    return STUDENT_T[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))


def difference(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """Seed by seed."""
    return tuple(a - b for a, b in zip(above, below, strict=True))


def doublings(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """log₂ of the ratios, seed by seed."""
    return tuple(math.log2(a / b) for a, b in zip(above, below, strict=True))
