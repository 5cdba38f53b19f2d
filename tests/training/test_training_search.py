"""A search: what it draws, that it resumes as if never stopped, and never uses the held-out half."""

import json
import re
import shlex
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from training import nets
from training.__main__ import main
from training.data import DATA_SETS, Split
from training.data.streamed import StreamedPixels
from training.search import command
from training.search.annealing import AnnealingSampler, stand
from training.search.divide import divide
from training.search.opening import LOCK, open_search
from training.search.space import BATCH_SIZES, FACTORS, NAMES, has_width, suggest, widen
from training.search.trials import Search, TrialFacts, new_net
from training.settings.config import OPTIMIZERS, SCHEDULES, ConfigError, FitConfig, split_settings
from training.settings.flags import build_parser
from training_kit import SMALLEST, tiny_split

FIXED = {"data": "tiny", "net": "mlp", "net_settings": {"hidden": "4"}, "epochs": 2}
FLAGS = [
    "search",
    "--data",
    "tiny",
    "--net",
    "mlp",
    "--net-setting",
    "hidden=4",
    "--epochs",
    "2",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def tiny() -> Split:
    return tiny_split()


@pytest.fixture(autouse=True)
def _tiny_data(tiny, monkeypatch):
    monkeypatch.setitem(DATA_SETS, "tiny", lambda: tiny)


def opened(out: Path, num_trials: int = 3, **changes: Any):
    settings = {"width": None, "num_trials": num_trials, "sampler": "tpe", "pruner": "none", "device": "cpu"}
    fixed = FIXED | changes.pop("fixed", {})
    return open_search(out, fixed, **settings | changes)


def searched(out: Path, num_trials: int = 3, **changes: Any) -> list[TrialFacts]:
    with opened(out, num_trials, **changes) as search:
        list(search.trials())
        return search.results


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


@pytest.mark.parametrize(("sampler", "total", "stops"), [("tpe", 12, (2, 11)), ("random", 4, (0, 2))])
def test_a_search_that_was_interrupted_comes_to_the_same_trials(tmp_path, monkeypatch, sampler, total, stops):
    """12 trials of TPE, which begins with 10 at random, so that it has learnt something."""
    settings = {"sampler": sampler, "pruner": "median", "fixed": {"epochs": 1}}
    whole = searched(tmp_path / "whole", total, **settings)
    assert len({facts.settings["learning_rate"] for facts in whole}) == total
    stopped = tmp_path / "stopped"
    for count in stops:
        with monkeypatch.context() as patch, opened(stopped, total, **settings) as search:
            trials = search.trials()
            while len(search.results) < count:
                next(trials)
            patch.setattr("training.search.trials.fit", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                next(trials)
    assert searched(stopped, total, **settings) == whole
    with opened(stopped, total, **settings) as search:
        states = [trial.state for trial in search.study.get_trials(deepcopy=False)]
    assert states.count(TrialState.FAIL) == 2


def _interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_a_trial_that_was_left_running_is_marked_as_failed(tmp_path):
    with opened(tmp_path) as search:
        left = search.study.ask()
    results = searched(tmp_path)
    assert len(results) == 3
    with opened(tmp_path) as search:
        assert search.study.get_trials()[left.number].state == TrialState.FAIL
        assert results == searched(tmp_path.with_name("fresh"))


def test_more_trials_go_on_where_fewer_ended(tmp_path):
    few = searched(tmp_path, 2)
    assert searched(tmp_path, 4)[:2] == few
    assert len(searched(tmp_path, 1)) == 4, "nothing is lost"


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


def test_the_command_prints_a_table_and_a_command_that_trains(tmp_path, capsys):
    out = tmp_path / "a folder"
    assert (
        main([*FLAGS, "--out", str(out), "--trials", "3", "--label-smoothing", "0.1", "--batch-size", "40"])
        == 0
    )
    shown = capsys.readouterr()
    *table, empty, told, line = shown.out.splitlines()
    assert (empty, told) == ("", "the best settings, with the whole train half:")
    assert len(table) == 5
    accuracies = [float(row.split("|")[2]) for row in table[2:]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert shown.err.count("\ntrial ") == 3
    python, m, training, *flags = shlex.split(line)
    assert (python, m, training) == ("python", "-m", "training")
    asked = vars(build_parser().parse_args(flags))
    assert asked["out"] == out / "best"
    assert asked["batch_size"] == 40
    assert asked["label_smoothing"] == 0.1
    asked["net_settings"] = split_settings("net", asked["net_settings"])
    with open_search(
        out,
        {**FIXED, "label_smoothing": 0.1, "batch_size": 40},
        width=None,
        num_trials=3,
        sampler="tpe",
        pruner="median",
        device="cpu",
    ) as search:
        best = search.config_of(search.best.settings, search.best.width)
    assert FitConfig(**{name: value for name, value in asked.items() if hasattr(FitConfig(), name)}) == best
    assert {path.name for path in out.iterdir()} == {"search.db", "search.png", LOCK}
    assert (out / "search.png").read_bytes().startswith(b"\x89PNG")
    with sqlite3.connect(out / "search.db") as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    database.close()
    assert main([*flags, "--device", "cpu"]) == 0, "and it is a command that works"


def test_a_search_in_which_all_diverge_says_so(tmp_path, capsys):
    assert main([*FLAGS, "--out", str(tmp_path), "--trials", "2", "--learning-rate", "1e30"]) == 0
    out = capsys.readouterr().out
    assert out.count("diverged") == 2
    assert "no trial was completed" in out


def test_an_interrupted_search_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("training.search.trials.fit", _interrupt)
    assert main([*FLAGS, "--out", str(tmp_path), "--trials", "2"]) == 130
    assert "the same command resumes it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--trials", "0"], "trials must be at least 1, got 0"),
        (["--trials", "many"], "argument --trials: invalid int value: 'many'"),
        (["--sampler", "grid"], "argument --sampler: invalid choice: 'grid'"),
        (["--pruner", "hope"], "argument --pruner: invalid choice: 'hope'"),
        (["--width", "0"], "width must be positive and finite, got 0.0"),
        (["--net", "mlpp"], "unknown net 'mlpp'"),
        (["--net", "timm:resnet18", "--width", "2"], "width must be left out"),
        (["--net-setting", "hiden=3"], "unknown setting of net mlp 'hiden'"),
        (["--data", "tinny"], "unknown data set 'tinny'"),
        (["--batch-size", "161"], "batch_size must be at most 160, the rows to train on, got 161"),
        (["--recalibrate-bn", "4"], "recalibrate_bn must be at most"),
        (["--resume"], "--resume is not for a search"),
        (["--tensorboard"], "--tensorboard is not for a search"),
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--out", "/dev/null/search"], "cannot write into /dev/null/search"),
        (["--out", "what?"], "a folder whose name has a question mark"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, monkeypatch, flags, sentence):
    monkeypatch.chdir(tmp_path)
    if "timm:resnet18" in flags:
        monkeypatch.setattr(nets, "read_net_settings", lambda name, words: {})
    assert main([*FLAGS, "--out", "search", "--trials", "2", *flags]) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_another_search_is_not_mixed_in(tmp_path, capsys):
    flags = [*FLAGS, "--out", str(tmp_path), "--trials", "1"]
    assert main(flags) == 0
    for others, sentence in (
        (["--epochs", "3"], "began with epochs 2, so it cannot continue with 3: take another --out"),
        (["--sampler", "random"], "began with sampler tpe"),
        (["--momentum", "0.9"], "began with momentum not given, so it cannot continue with 0.9"),
    ):
        assert main([*flags, *others]) == 2
        assert sentence in capsys.readouterr().err
    assert main(flags) == 0


def test_two_searches_at_once_in_one_folder_are_one_too_many(tmp_path, capsys):
    with FileLock(tmp_path / LOCK):
        assert main([*FLAGS, "--out", str(tmp_path), "--trials", "1"]) == 2
    assert f"another search is running in {tmp_path}" in capsys.readouterr().err
    assert main([*FLAGS, "--out", str(tmp_path), "--trials", "1"]) == 0


@pytest.mark.parametrize("content", [b"no database" * 100, b""])
def test_a_file_that_is_no_database_is_refused_and_an_empty_one_taken(tmp_path, capsys, content):
    path = tmp_path / "search.db"
    path.write_bytes(content)
    assert main([*FLAGS, "--out", str(tmp_path), "--trials", "1"]) == (2 if content else 0)
    if content:
        shown = capsys.readouterr().err
        assert f"{path} cannot be used as the file of a search: file is not a database" in shown
        assert path.read_bytes() == content


def test_without_optuna_it_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert main([*FLAGS, "--out", str(tmp_path / "new"), "--trials", "1"]) == 2
    assert "optuna, which is missing: pip install 'foldserve[search]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["search", "--help"])
    assert stopped.value.code == 0
    assert re.search(r"foldserve search --out \S+ --trials \d+", capsys.readouterr().out)


def test_what_a_search_began_with_is_kept_with_it(tmp_path):
    searched(tmp_path, 1)
    with opened(tmp_path, 1) as search:
        assert isinstance(search, Search)
        kept = search.study.user_attrs["settings"]
    assert re.fullmatch("[0-9a-f]{16}", kept.pop("labels"))
    assert kept == json.loads(json.dumps({**FIXED, "width": None, "sampler": "tpe", "pruner": "none"}))
