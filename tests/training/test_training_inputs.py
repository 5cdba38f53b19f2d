"""How pixels become numbers: what `--normalise`, `--mean` and `--std` do to a net, and to its bundle."""

import json
import re

import pytest
import torch

from export_kit import run_here
from service.contract.bundle import open_bundle
from training.__main__ import main
from training.data import DATA_SETS
from training.loop.evaluate import predict
from training.nets import build_net, settings_for
from training.runs.checkpoint import load_checkpoint
from training_kit import FACTS, lively, tiny_split, without_pictures

SMALL = ["--net", "cnn", "--net-setting", "channels=4,8", "--net-setting", "hidden=8"]
FLAGS = ["--device", "cpu", "--batch-size", "50", "--data", "tiny", "--epochs", "1", *SMALL]


@pytest.fixture(autouse=True)
def _data(monkeypatch):
    monkeypatch.setitem(DATA_SETS, "tiny", tiny_split)
    without_pictures(monkeypatch)


@pytest.mark.parametrize(
    ("flags", "mean", "std"),
    [
        ([], FACTS.mean, FACTS.std),
        (["--normalise", "min-max"], [0.0], [1.0]),
        (["--normalise", "none"], [0.0], [1 / 255]),
        (["--mean", "0.5", "--std", "0.25"], [0.5], [0.25]),
    ],
)
def test_the_checkpoint_says_how_pixels_become_numbers(tmp_path, flags, mean, std):
    assert main(["--out", str(tmp_path), *FLAGS, *flags]) == 0
    facts = load_checkpoint(tmp_path / "checkpoint.pt").data
    assert (facts.mean, facts.std) == (mean, std)
    assert main(["--out", str(tmp_path), "--device", "cpu", "--resume", "--epochs", "2"]) == 0


def test_a_net_that_standardises_each_picture_is_served_the_same(tmp_path):
    """It is part of the graph, so no service needs to know of it."""
    flags = ["--normalise", "per-picture", "--augment", "mixup"]
    assert main(["--out", str(tmp_path), *FLAGS, *flags]) == 0
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    assert checkpoint.net_settings["per_picture"] is True
    split = tiny_split()
    dimmer = split.held_out_pixels // 4 * 2 + 30
    logits, dimmed = (
        predict(checkpoint.build_net(), pixels, checkpoint.data) for pixels in (dimmer // 2, dimmer)
    )
    assert (logits.argmax(1) == dimmed.argmax(1)).float().mean() > 0.95
    assert main(["--out", str(tmp_path), "--device", "cpu", "--resume", "--epochs", "2"]) == 0
    done = run_here("bundle", tmp_path / "checkpoint.pt", "--to", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    fold = open_bundle(tmp_path / "m" / "1").manifest.fold
    assert (fold.found, fold.folded) == (3, 3)


def test_a_plain_picture_is_no_division_by_zero():
    net = lively(build_net("cnn", settings_for("cnn", FACTS, {"channels": (4, 8), "per_picture": True})))
    with torch.no_grad():
        assert net(torch.full((2, *FACTS.input_shape), 0.3)).isfinite().all()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--normalise", "minmax"], "unknown normalise 'minmax'.*did you mean min-max"),
        (["--mean", "0.5"], "mean and std go together"),
        (["--mean", "0.5,0.5", "--std", "0.5"], "mean must be one number, got 0.5,0.5"),
        (["--mean", "0.5", "--std", "0"], "std must be positive, got 0"),
        (["--mean", "0.5", "--std", "1", "--normalise", "none"], "with normalise z-score only"),
    ],
)
def test_what_cannot_be_a_normalisation_is_one_sentence(tmp_path, capsys, flags, sentence):
    assert main(["--out", str(tmp_path), *FLAGS, *flags]) == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("augment", ["mixup=0.4", "cutmix", "randaugment,resized-crop", "rotate,colour=0.2"])
def test_a_run_with_an_augmentation_resumes_to_the_same_bits(tmp_path, augment, capsys):
    flags = [*FLAGS, "--epochs", "2", "--augment", augment, "--label-smoothing", "0.1"]
    assert main(["--out", str(tmp_path / "whole"), *flags, "--class-weights", "balanced"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert 0 <= facts["train_accuracy"] <= 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.runs.run.Run._write_metrics", _interrupt)
        stopped = ["--out", str(tmp_path / "stopped"), *flags, "--class-weights", "balanced"]
        assert main(stopped) == 130
    assert main(["--out", str(tmp_path / "stopped"), "--device", "cpu", "--resume"]) == 0
    whole, resumed = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "stopped"))
    for name, value in whole.state_dict.items():
        assert torch.equal(resumed.state_dict[name], value), name


def _interrupt(self):
    raise KeyboardInterrupt
