"""The command `foldserve search`: what it prints, what it refuses, what lies in its folder."""

import json
import re
import shlex
import sqlite3

import pytest

from search_kit import FIXED, interrupt, opened, searched
from training import nets
from training.__main__ import main
from training.data import DATA_SETS, Split
from training.search import command
from training.search.opening import open_search
from training.search.trials import Search
from training.settings.config import FitConfig, split_settings
from training.settings.flags import build_parser
from training_kit import tiny_split

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
    assert {path.name for path in out.iterdir()} == {"search.db", "search.png", ".search.lock"}
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


def test_aninterrupted_search_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("training.search.trials.fit", interrupt)
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
        (["--recalibrate-bn", "6"], "recalibrate_bn must be at most"),
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
