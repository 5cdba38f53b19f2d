"""What articles claim, what was measured, and one rule for all that says whether it held.

In: one value per seed, counted so that the claim predicts a value above `margin`.  Out: a verdict.

    d̄ ± t(n − 1) · s / √n          mean and interval (Student's t at LEVEL) over the n seeds

    held            the whole interval lies above the margin
    did not hold    the whole interval lies at or below it
    not decided     the margin lies inside

Values are paired: for one seed both nets begin with the same weights and see the same batches, so what the
seed does to both cancels.  Rule and margins were fixed before the study's seeds were run.

The design is sequential: an experiment ends at the first of LOOKS at which all of its claims are decided. To
look several times is to have several chances to err, so each look's interval misses with a third of 5 %
(Bonferroni): whichever look is the last, at most 5 % of intervals miss what they should cover.
"""

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from study.lab import StudyError

Verdict = Literal["held", "did not hold", "not decided"]

LOOKS = (5, 10, 20)  # so many seeds, then a verdict; where one is missing, more seeds
LEVEL = 1 - 0.05 / len(LOOKS)
MIN_SEEDS, MAX_SEEDS = 2, 100


@dataclass(frozen=True)
class Unit:
    """What a claim's values count, and how one is put in words; `falls` where more is shown as less."""

    name: str
    show: Callable[[float], str]
    falls: bool = False


POINTS = Unit("share of rows", lambda share: f"{100 * share:+.1f} points")
FACTOR = Unit("log₂ of a ratio", lambda log: f"{2**log:.2f} ×")
LOSS = Unit("cross-entropy", lambda loss: f"{loss:+.2f}")
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
        """Of the mean at LEVEL, low and high."""
        reach = half_width(self.values)
        return self.mean - reach, self.mean + reach

    @property
    def effect(self) -> float | None:
        """Cohen's d of paired values: the mean in standard deviations; None where all are equal."""
        spread = statistics.stdev(self.values)
        return self.mean / spread if spread else None

    @property
    def verdict(self) -> Verdict:
        """By the rule above."""
        low, high = self.interval
        if low > self.margin:
            return "held"
        return "did not hold" if high <= self.margin else "not decided"


def half_width(values: Sequence[float]) -> float:
    """Of the interval of their mean at LEVEL."""
    if not MIN_SEEDS <= len(values) <= MAX_SEEDS:
        raise StudyError(f"seeds must lie in {MIN_SEEDS} .. {MAX_SEEDS}, got {len(values)}")
    return student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


@functools.cache
def student_t(freedom: int, level: float = LEVEL) -> float:
    """t with the share `level` of Student's distribution within ±t (Abramowitz & Stegun, 26.7.3 and 4)."""
    low, high = 0.0, math.pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _share_within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _share_within(angle: float, freedom: int) -> float:
    """Of ±t, for angle = atan(t / √freedom): a finite sum, as `freedom` is a whole number."""
    is_odd = freedom % 2
    term, total = math.cos(angle) if is_odd else 1.0, 0.0
    for power in range(2 + is_odd, freedom + 1, 2):
        total += term
        term *= (power - 1) / power * math.cos(angle) ** 2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if is_odd else total


def difference(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """Seed by seed."""
    return tuple(a - b for a, b in zip(above, below, strict=True))


def doublings(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """log₂ of the ratios, seed by seed."""
    return tuple(math.log2(a / b) for a, b in zip(above, below, strict=True))
