"""A search: what it draws, that it resumes as if never stopped, and never uses the held-out half."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search_kit import opened, searched
from training import nets
from training.data import DATA_SETS, Split
from training.data.streamed import StreamedPixels
from training.search.annealing import AnnealingSampler, stand
from training.search.opening import divide
from training.search.space import BATCH_SIZES, FACTORS, NAMES, batch_sizes_for, has_width, suggest, widen
from training.search.trials import TrialFacts, new_net
from training.settings.config import OPTIMIZERS, SCHEDULES, ConfigError, FitConfig
from training_kit import SMALLEST, tiny_split

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tiny() -> Split:
    return tiny_split()


@pytest.fixture(autouse=True)
def _tiny_data(tiny, monkeypatch):
    monkeypatch.setitem(DATA_SETS, "tiny", lambda: tiny)


class Drawing:
    """A trial that draws what it is told to, within the bounds that it is given."""

    def __init__(self, share: float) -> None:
        self.share, self.asked = share, []

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        assert log, f"{name} spans decades"
        self.asked.append(name)
        return low * (high / low) ** self.share

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.asked.append(name)
        return choices[min(int(self.share * len(choices)), len(choices) - 1)]


@given(st.floats(0, 1), st.sets(st.sampled_from(NAMES)))
def test_whatever_is_drawn_can_be_trained_with_and_what_is_fixed_is_not_drawn(share, fixed):
    trial = Drawing(share)
    settings, factor = suggest(trial, dict.fromkeys(fixed, 0), BATCH_SIZES, FACTORS)
    assert settings.keys() == set(NAMES) - fixed
    assert factor in FACTORS
    config = FitConfig(**settings)
    for name, value in settings.items():
        assert float(f"{value:.3g}") == pytest.approx(value, abs=5e-4), name
        assert repr(value) == repr(type(value)(str(value))), "a command line says it exactly"
    assert 1e-3 <= config.learning_rate <= 1
    assert 0.8 <= config.momentum <= 0.98
    assert 1e-5 <= config.weight_decay <= 1e-2


def test_optimizer_and_schedule_are_drawn_where_asked_for_with_rates_that_suit(tmp_path):
    for share, rates in ((0.0, (1e-3, 1)), (0.5, (1e-5, 1e-2))):
        settings, _ = suggest(Drawing(share), {}, [32], (1.0,), ("optimizer", "schedule"))
        assert settings["schedule"] in SCHEDULES
        assert (settings["optimizer"] == "sgd") == (share == 0)
        assert rates[0] <= settings["learning_rate"] <= rates[1]
    found = searched(tmp_path, 3, chosen=("optimizer",))
    assert all(facts.settings["optimizer"] in OPTIMIZERS for facts in found)
    with pytest.raises(ConfigError, match="optimizer is either given or searched for"):
        searched(tmp_path / "no", 1, chosen=("optimizer",), fixed={"optimizer": "sgd"})


def test_annealing_resumes_as_if_never_stopped_and_cools(tmp_path):
    whole = searched(tmp_path / "whole", 5, sampler="annealing")
    searched(tmp_path / "stopped", 2, sampler="annealing")
    assert searched(tmp_path / "stopped", 5, sampler="annealing") == whole
    assert len({facts.settings["learning_rate"] for facts in whole}) == 5
    study = optuna.create_study(direction="maximize")
    moves = []
    for index in range(60):
        study.sampler = AnnealingSampler(index, index)
        trial = study.ask()
        at = trial.suggest_float("x", 0.0, 1.0)
        study.tell(trial, -((at - 0.3) ** 2))
        moves.append(at)
    late = [abs(one - other) for one, other in pairwise(moves[40:])]
    assert max(late) < 0.1, "late steps are small"
    assert abs(stand(study.get_trials()).params["x"] - 0.3) < 0.15, "the walk ends near the best place"


@pytest.mark.parametrize(
    ("num_rows", "sizes"),
    [(3200, [32, 64, 128, 256]), (600, [32, 64, 128]), (127, [31]), (40, [16]), (9, [9])],
)
def test_no_batch_is_nearly_all_of_a_small_train_half(num_rows, sizes):
    assert batch_sizes_for(num_rows) == sizes


def test_a_width_that_is_fixed_is_not_drawn():
    trial = Drawing(0.0)
    assert suggest(trial, {}, [32], (2.0,))[1] == 2.0
    assert "width" not in trial.asked


@pytest.mark.parametrize("name", nets.NETS)
def test_every_net_of_ours_can_be_made_wider_and_narrower(tiny, name):
    assert has_width(name)
    given_words = nets.read_net_settings(name, SMALLEST[name])
    sizes = {}
    for factor in FACTORS:
        words = SMALLEST[name] | widen(name, given_words, factor)
        net = new_net(FitConfig(net=name, net_settings=words), tiny)
        sizes[factor] = sum(parameter.numel() for parameter in net.parameters())
    assert sizes[0.5] < sizes[1.0] < sizes[2.0]
    assert widen(name, given_words, 1.0) == {}


def test_widths_are_the_given_ones_or_the_defaults_and_never_nothing():
    assert widen("cnn", {"channels": (3, 5)}, 2.0) == {"channels": "6,10", "hidden": "256"}
    assert widen("mlp", {"hidden": (1,)}, 0.5) == {"hidden": "1"}
    assert not has_width("timm:resnet18")


def test_trials_are_judged_on_train_rows_that_they_do_not_train_on(tiny):
    parts = divide(tiny)
    trained, judged = (
        {row.numpy().tobytes() for row in pixels} for pixels in (parts.train_pixels, parts.held_out_pixels)
    )
    assert (len(trained), len(judged)) == (160, 40)
    assert not trained & judged
    assert trained | judged == {row.numpy().tobytes() for row in tiny.train_pixels}
    assert not (trained | judged) & {row.numpy().tobytes() for row in tiny.held_out_pixels}
    again = divide(tiny)
    assert torch.equal(again.held_out_labels, parts.held_out_labels)
    assert parts.facts == tiny.facts
    labels = {
        row.numpy().tobytes(): label for row, label in zip(tiny.train_pixels, tiny.train_labels, strict=True)
    }
    for row, label in zip(parts.train_pixels, parts.train_labels, strict=True):
        assert labels[row.numpy().tobytes()] == label


def test_streamed_pictures_are_divided_where_they_lie(tiny, tmp_path):
    path = tmp_path / "pixels"
    path.write_bytes(tiny.train_pixels.numpy().tobytes())
    streamed = StreamedPixels(path, torch.arange(200), (1, 16, 16))
    here, there = divide(tiny), divide(replace(tiny, train_pixels=streamed))
    assert isinstance(there.held_out_pixels, StreamedPixels)
    for one, other in (
        (here.train_pixels, there.train_pixels),
        (here.held_out_pixels, there.held_out_pixels),
    ):
        assert torch.equal(one, other[torch.arange(len(one))])


def test_a_trial_gives_what_its_settings_give_alone(tmp_path, tiny):
    """The same fit, outside of any search."""
    (facts,) = searched(tmp_path, 1)
    with opened(tmp_path, 1) as search:
        config = search.config_of(facts.settings, facts.width)
    from training.loop.device import place
    from training.loop.fit import fit

    parts = divide(tiny)
    *_, last = fit(place(new_net(config, parts), torch.device("cpu")), parts, config)
    assert last.facts.held_out_accuracy == facts.accuracy
    assert last.facts.held_out_loss == facts.loss
    assert facts.epochs == config.epochs == 2


def planted(accuracies: dict[int, Sequence[float]]):
    """A `fit` whose trials go as planted, in their order."""
    trial = iter(sorted(accuracies))

    def fit(net: Any, split: Split, config: FitConfig):
        for epoch, accuracy in enumerate(accuracies[next(trial)], start=1):
            facts = type(
                "Facts", (), {"epoch": epoch, "held_out_accuracy": accuracy, "held_out_loss": 1 - accuracy}
            )
            yield type("Epoch", (), {"facts": facts})

    return fit


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_a_trial_far_below_the_others_ends_early(tmp_path, monkeypatch, pruner):
    accuracies = {number: [0.5 + number / 100, 0.9] for number in range(9)} | {9: [0.1, 0.99]}
    monkeypatch.setattr("training.search.trials.fit", planted(accuracies))
    results = searched(tmp_path, 10, pruner=pruner)
    assert (results[-1].outcome, results[-1].epochs, results[-1].accuracy) == ("pruned", 1, 0.1)
    assert results[-2].outcome == "done"


def test_without_a_pruner_every_trial_comes_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("training.search.trials.fit", planted({0: [0.9, 0.9], 1: [0.1, 0.2], 2: [0.9, 0.9]}))
    assert [facts.outcome for facts in searched(tmp_path)] == ["done"] * 3


def test_the_best_has_the_highest_accuracy_then_the_lowest_loss_and_is_done(tmp_path):
    def facts(outcome, accuracy, loss):
        return TrialFacts(settings={}, width=1.0, outcome=outcome, epochs=1, accuracy=accuracy, loss=loss)

    ranked = [
        facts("done", 0.9, 0.3),
        facts("done", 0.9, 0.4),
        facts("done", 0.8, 0.1),
        facts("pruned", 0.95, 0.1),
        facts("diverged", None, None),
    ]
    shuffled = [ranked[place] for place in (3, 1, 4, 2, 0)]
    assert sorted(shuffled, key=lambda each: each.rank, reverse=True) == ranked
