"""Trials, one after the other in each process, all of them kept in one SQLite file.

In: a folder, the fixed settings, and the number of trials.  Out: facts of each trial as it ends.

Trial k (of those that ended) draws with a generator of its own, seeded with (seed, k), and knows the trials
before it: so a search that was interrupted resumes with the same trials as without the interruption. The
trial that was interrupted is marked as failed, and is not counted. Where several processes share a search,
trial k knows those that had ended when it began, which depends on their speed. Every net begins with the same
seed, so that trials differ by their settings alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import torch
from optuna.trial import TrialState
from torch import nn

from training import nets
from training.data import Split
from training.loop.chance import seeded_generator
from training.loop.device import explaining, place
from training.loop.diagnosis import DivergedError
from training.loop.fit import fit
from training.search.annealing import AnnealingSampler
from training.search.sharing import Shared
from training.search.space import suggest, widen
from training.settings.config import FitConfig, new_config

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
Outcome = Literal["done", "pruned", "diverged"]


@dataclass(frozen=True, kw_only=True)
class TrialFacts:
    """Settings that the search chose, and their result on the last fifth of the train half.

    `accuracy` and `loss` are of the last of `epochs`; None where the first one did not end.
    """

    settings: dict[str, Any]
    width: float
    outcome: Outcome
    epochs: int
    accuracy: float | None
    loss: float | None

    @property
    def rank(self) -> tuple[bool, float, float]:
        """A key to sort by, the largest is the best: completed or not, then accuracy, then loss."""
        return (
            self.outcome == "done",
            self.accuracy or 0.0,
            -(self.loss if self.loss is not None else torch.inf),
        )


@dataclass(kw_only=True, eq=False)
class Search:
    """A search that is open: `trials` runs the trials that are missing."""

    out: Path
    fixed: dict[str, Any]
    num_trials: int
    sampler: str
    device: torch.device
    split: Split
    batch_sizes: Sequence[int]
    factors: Sequence[float]
    study: optuna.Study
    shared: Shared
    chosen: Sequence[str] = ()

    @property
    def results(self) -> list[TrialFacts]:
        """Facts of every trial that ended, in order."""
        ended = self.study.get_trials(deepcopy=False, states=ENDED)
        return [TrialFacts(**trial.user_attrs["facts"]) for trial in ended]

    @property
    def best(self) -> TrialFacts | None:
        """The best of the trials that were completed, or None."""
        done = [facts for facts in self.results if facts.outcome == "done"]
        return max(done, key=lambda facts: facts.rank, default=None)

    @property
    def num_elsewhere(self) -> int:
        """Trials that run now, in other processes when none runs here."""
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def trials(self) -> Iterator[tuple[int, TrialFacts]]:
        """Run trials until `num_trials` have ended or run elsewhere; yields the number and facts of each."""
        while (taken := self._take()) is not None:
            number, trial = taken
            try:
                facts = self._measure(trial)
            except BaseException:
                # Also on Ctrl-C: a trial that is left as running would never be settled.
                self.study.tell(trial, state=TrialState.FAIL)
                raise
            # Before `tell`: `results` reads the facts of every trial that ended, so none may end without.
            trial.set_user_attr("facts", asdict(facts))
            if facts.outcome == "done":
                self.study.tell(trial, facts.accuracy)
            else:
                self.study.tell(trial, state=TrialState.PRUNED)
            yield number, facts

    def _take(self) -> tuple[int, optuna.Trial] | None:
        """The next trial, with its number from 1; None where all are done or taken."""
        with self.shared.alone():
            self.shared.fail_abandoned(self.study)
            # Read at once: between two readings another process may end its trial, which neither would count.
            index = len(self.study.get_trials(deepcopy=False, states=(*ENDED, TrialState.RUNNING)))
            if index >= self.num_trials:
                return None
            # One sampler for the whole search would draw its first numbers again after a restart.
            self.study.sampler = new_sampler(self.sampler, self.config_of({}, 1.0).seed, index)
            trial = self.study.ask()
            self.shared.claim(trial)
            return index + 1, trial

    def config_of(self, settings: Mapping[str, Any], width: float) -> FitConfig:
        """All settings of a trial: the fixed ones, the ones drawn, and the net's widths times `width`."""
        fixed = dict(self.fixed)
        net, words = fixed.get("net", FitConfig.net), fixed.pop("net_settings", {})
        wider = widen(net, nets.read_net_settings(net, words), width)
        return new_config({**fixed, **settings, "net_settings": words | wider})

    def _measure(self, trial: optuna.Trial) -> TrialFacts:
        settings, width = suggest(trial, self.fixed, self.batch_sizes, self.factors, self.chosen)
        config = self.config_of(settings, width)
        net = place(new_net(config, self.split), self.device)
        outcome: Outcome = "done"
        last = None
        try:
            with explaining():
                for epoch in fit(net, self.split, config):
                    last = epoch.facts
                    trial.report(last.held_out_accuracy, last.epoch)
                    # After the last epoch there is nothing left to save by pruning.
                    if last.epoch < config.epochs and trial.should_prune():
                        outcome = "pruned"
                        break
        except DivergedError:
            outcome = "diverged"
        return TrialFacts(
            settings=settings,
            width=width,
            outcome=outcome,
            epochs=last.epoch if last else 0,
            accuracy=last.held_out_accuracy if last else None,
            loss=last.held_out_loss if last else None,
        )


def new_net(config: FitConfig, split: Split) -> nn.Module:
    """The untrained net of a trial."""
    settings = nets.settings_for(config.net, split.facts, nets.given_settings(config))
    return nets.new_net(config.net, settings, seeded_generator(config.seed, "weights"))


def new_sampler(name: str, seed: int, index: int) -> optuna.samplers.BaseSampler:
    """A sampler for trial `index` alone."""
    own_seed = seeded_generator(seed, f"search {index}").initial_seed() % 2**32
    if name == "random":
        return optuna.samplers.RandomSampler(seed=own_seed)
    if name == "annealing":
        return AnnealingSampler(own_seed, index)
    # Trials that run elsewhere count as bad, so that no two processes draw the same.
    return optuna.samplers.TPESampler(seed=own_seed, constant_liar=True)
