"""Learning rates, chosen with seeds of their own; and what a run's losses say.

In: a scale and settings of runs.  Out: runs for every seed, and the rate at which such a run ends lowest.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from study.lab import Measure, Result
from study.scale import TUNING_SEEDS, Scale
from study.short_run import ShortRun

LAST = 20


def runs_of(scale: Scale, **settings: Any) -> list[ShortRun]:
    """The same run with every seed of the study."""
    return [ShortRun(data=scale.data, num_rows=scale.num_rows, seed=seed, **settings) for seed in scale.seeds]


def tune(scale: Scale, measure: Measure, rates: Sequence[float], **settings: Any) -> float:
    """The rate with the lowest final loss, as a mean of seeds that measure nothing else."""
    trials = [
        ShortRun(data=scale.data, num_rows=scale.num_rows, seed=seed, learning_rate=rate, **settings)
        for rate in rates
        for seed in TUNING_SEEDS
    ]
    losses = [final_loss(result) for result in measure(trials)]
    by_rate = [
        sum(losses[start : start + len(TUNING_SEEDS)]) for start in range(0, len(losses), len(TUNING_SEEDS))
    ]
    return rates[by_rate.index(min(by_rate))]


def column(results: Sequence[Result], key: str) -> list[float]:
    """One value of every seed's result."""
    return [result[key] for result in results]


def by_seed(columns: Iterable[Sequence[float]], times: float = 1.0) -> list[list[float]]:
    """From a list of the seeds at each x to a line over all x for each seed that every x has.

    What no claim compares is measured with the first seeds alone, so columns may differ in length.
    """
    return [[times * value for value in line] for line in zip(*columns, strict=False)]


def final_loss(result: Result) -> float:
    """Mean of the last 20 steps; infinite where the run did not come so far."""
    return statistics.fmean(result["losses"][-LAST:]) if result["finished"] else math.inf


def smooth(losses: Sequence[float], window: int) -> list[float]:
    """Mean of each `window` steps in a row."""
    return [statistics.fmean(losses[end - window : end]) for end in range(window, len(losses) + 1)]
