"""When a run ends: no longer better, stopped early, and which net is published then."""

import json
from dataclasses import replace

import pytest

from fit_kit import few_digits, fresh_net
from training.__main__ import main
from training.data import Split
from training.loop.facts import EpochFacts
from training.loop.fit import fit
from training.loop.published import find_best, is_exhausted
from training.runs.checkpoint import load_checkpoint
from training.settings.config import FitConfig

FEW = few_digits()
LABELS = FEW.facts.labels


def history(*accuracies: float, loss: float = 1.0) -> list[EpochFacts]:
    return [
        EpochFacts(
            epoch=epoch,
            step=epoch,
            learning_rate=0.1,
            train_loss=1.0,
            train_accuracy=0.5,
            held_out_loss=loss / epoch,
            held_out_accuracy=accuracy,
        )
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]


@pytest.mark.parametrize(
    ("accuracies", "patience", "best", "ends"),
    [
        ((0.5,), 1, 1, False),
        ((0.5, 0.4), 1, 1, True),
        ((0.5, 0.4, 0.6), 1, 3, False),
        ((0.6, 0.5, 0.4), 2, 1, True),
        ((0.6, 0.5, 0.4), 3, 1, False),
        ((0.6, 0.6), 1, 2, False),
        ((0.6, 0.5, 0.4), 0, 1, False),
    ],
)
def test_a_run_ends_when_it_no_longer_improves(accuracies, patience, best, ends):
    assert find_best(history(*accuracies)).epoch == best
    assert is_exhausted(history(*accuracies), patience) == ends


def worsening(split: Split) -> Split:
    """Held-out labels that only an untrained net could get right now and then."""
    return replace(split, held_out_labels=(split.held_out_labels + 1) % 10)


def test_the_best_net_is_what_is_published_and_an_early_end_reports_on_it():
    config = FitConfig(epochs=9, batch_size=32, early_stop=2, keep="best", recalibrate_bn=2)
    net = fresh_net(FEW)
    epochs = list(fit(net, worsening(FEW), config))
    facts = [epoch.facts for epoch in epochs]
    best = find_best(facts)
    assert len(facts) == best.epoch + 2 < 9
    assert epochs[-1].net is not net
    assert [epoch.batchnorm is None for epoch in epochs] == [True] * (len(epochs) - 1) + [False]
    assert epochs[-1].metrics.epoch == best.epoch
    assert epochs[-1].metrics.held_out_loss != best.held_out_loss, "recalibrated, and evaluated again"
    assert all(epoch.metrics == find_best(facts[: epoch.facts.epoch]) for epoch in epochs[:-1])


def test_a_run_by_command_logs_steps_ends_early_and_stays_ended(tmp_path, capsys):
    out = str(tmp_path / "run")
    flags = ["--data", "synthetic:1x8x8x3", "--data-setting", "rows=96", "--net", "mlp", "--device", "cpu"]
    recipe = ["--optimizer", "adam", "--epochs", "30", "--batch-size", "16", "--schedule", "constant"]
    recipe += ["--early-stop", "2", "--keep", "best", "--class-weights", "1,1,2"]
    assert main(["--out", out, *flags, *recipe, "--log-every", "3"]) == 0
    shown = capsys.readouterr()
    facts = json.loads(shown.out)
    assert "epoch   1/30   step 3/6  " in shown.err
    assert "epoch   1/30   step 6/6  " in shown.err
    assert "step 3/6  " in shown.err.split("loss")[0], "known when it is shown"
    assert "ended early: no better epoch in the last 2" in shown.err
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert checkpoint.epoch == facts["epoch"] + 2
    assert checkpoint.metrics["held_out_accuracy"] == facts["held_out_accuracy"]
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    assert main(["--out", out, "--device", "cpu", "--resume"]) == 0
    assert json.loads(capsys.readouterr().out)["epoch"] == facts["epoch"]
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
