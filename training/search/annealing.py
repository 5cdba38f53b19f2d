"""Simulated annealing (Kirkpatrick, Gelatt and Vecchi, 1983), as a sampler of Optuna.

In: the trials so far.  Out: the next point, near the one that the walk stands on.

    temperature of trial k   T = 0.9^k
    step                     a float moves by N(0, T/4) of its range, a choice is drawn anew with chance T
    walk                     a better trial is taken, a worse one with chance exp(−difference / (0.1 · T))

The walk is computed again from the trials each time, so a search that was interrupted resumes with the same.
"""

import math
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

COOLING, WIDTH, SCALE = 0.9, 0.25, 0.1
Space = dict[str, BaseDistribution]


class AnnealingSampler(BaseSampler):
    """For trial `index` alone, as `new_sampler` makes them."""

    def __init__(self, seed: int, index: int) -> None:
        self._chance = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)
        self._temperature = COOLING**index

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Space:
        """Everything that the trial is asked for is drawn by itself."""
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        """Nothing is drawn together."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value near that of the trial that the walk stands on; at random where it has none."""
        here = stand(study.get_trials(deepcopy=False))
        if here is None or param_name not in here.params:
            return self._random.sample_independent(study, trial, param_name, param_distribution)
        value = here.params[param_name]
        if isinstance(param_distribution, FloatDistribution):
            return self._move(value, param_distribution)
        assert isinstance(param_distribution, CategoricalDistribution)
        if self._chance.random() >= self._temperature:
            return value
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _move(self, value: float, within: FloatDistribution) -> float:
        to, back = (math.log, math.exp) if within.log else (float, float)
        low, high = to(within.low), to(within.high)
        moved = to(value) + self._chance.normal() * WIDTH * self._temperature * (high - low)
        # Mirrored at the ends of the range: cut off there, half of all steps from an end would not move.
        moved = high - abs(high - (low + abs(moved - low)))
        return float(np.clip(back(max(moved, low)), within.low, within.high))


def stand(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The trial that the walk stands on after all of these; None before one was completed."""
    here: FrozenTrial | None = None
    done = [each for each in trials if each.state == TrialState.COMPLETE and each.value is not None]
    for index, each in enumerate(done):
        assert each.value is not None
        if here is None or here.value is None:
            here = each
            continue
        chance = np.random.default_rng(each.number).random()
        worse = here.value - each.value
        if worse <= 0 or chance < math.exp(-worse / (SCALE * COOLING**index)):
            here = each
    return here
