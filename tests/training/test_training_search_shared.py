"""A search that is interrupted, and one that several processes share: each trial is run once."""

import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from optuna.trial import TrialState

from search_kit import interrupt, opened, searched
from training.data import DATA_SETS
from training.search.trials import TrialFacts
from training_kit import tiny_split

ROOT = Path(__file__).parents[2]
ENDED = TrialFacts(settings={}, width=1.0, outcome="done", epochs=1, accuracy=1.0, loss=0.0)


@pytest.fixture(autouse=True)
def _tiny_data(monkeypatch):
    tiny = tiny_split()
    monkeypatch.setitem(DATA_SETS, "tiny", lambda: tiny)


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
            patch.setattr("training.search.trials.fit", interrupt)
            with pytest.raises(KeyboardInterrupt):
                next(trials)
    assert searched(stopped, total, **settings) == whole
    with opened(stopped, total, **settings) as search:
        states = [trial.state for trial in search.study.get_trials(deepcopy=False)]
    assert states.count(TrialState.FAIL) == 2


def test_a_trial_that_was_left_running_is_marked_as_failed(tmp_path):
    with opened(tmp_path) as search:
        left = search.study.ask()
    results = searched(tmp_path)
    assert len(results) == 3
    with opened(tmp_path) as search:
        assert search.study.get_trials()[left.number].state == TrialState.FAIL
        assert results == searched(tmp_path.with_name("fresh"))


def test_a_trial_of_a_process_that_lives_is_left_alone(tmp_path):
    with opened(tmp_path) as search, opened(tmp_path) as other:
        number, trial = other._take()
        assert number == 1
        assert [number for number, _ in search.trials()] == [2, 3], "one of three trials is taken"
        assert (len(search.results), search.num_elsewhere) == (2, 1)
    with opened(tmp_path) as search:
        assert search.study.get_trials()[trial.number].state == TrialState.FAIL
        assert len(list(search.trials())) == 1


def test_a_trial_that_ends_elsewhere_while_the_next_is_taken_counts_once(tmp_path, monkeypatch):
    """Between one reading of the file and the next: not yet read as ended, and no longer as running."""
    with opened(tmp_path) as search, opened(tmp_path) as other:
        number, trial = other._take()
        read = search.study.get_trials

        def end_after_reading(*args, states, **kwargs):
            found = read(*args, states=states, **kwargs)
            if TrialState.COMPLETE in states and not other.results:
                trial.set_user_attr("facts", asdict(ENDED))
                other.study.tell(trial, ENDED.accuracy)
            return found

        monkeypatch.setattr(search.study, "get_trials", end_after_reading)
        assert number == 1
        assert search._take()[0] == 2
        assert len(other.results) == 1, "or nothing ended"


def test_two_processes_share_the_trials_and_each_is_run_once(tmp_path):
    flags = ["--out", str(tmp_path), "--trials", "6", "--data", "synthetic:1x8x8x10", "--net", "mlp"]
    flags += ["--net-setting", "hidden=4", "--epochs", "1", "--batch-size", "64", "--pruner", "none"]
    command = [sys.executable, "-m", "training", "search", *flags, "--device", "cpu"]
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    numbers = [
        int(number) for text in told for number in re.findall(r"^trial (\d+) +accuracy", text, re.MULTILINE)
    ]
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]
    assert not list(tmp_path.glob(".search.?*.lock")), "no process is left"


def test_more_trials_go_on_where_fewer_ended(tmp_path):
    few = searched(tmp_path, 2)
    assert searched(tmp_path, 4)[:2] == few
    assert len(searched(tmp_path, 1)) == 4, "nothing is lost"
