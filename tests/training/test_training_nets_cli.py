"""`--net` and `--net-setting`: what they build, and mistakes in one sentence before anything long."""

from pathlib import Path

import pytest

from training.__main__ import main
from training.data import DATA_SETS, Split
from training.runs import open as open_run
from training.runs.checkpoint import load_checkpoint
from training_kit import mistake, tiny_split, without_pictures

NO_NORM = f"{__name__}:no_norm"
RESNET = ("--net", "resnet", "--net-setting", "depth=8", "--net-setting=width=3")
SHORT = ("--data", "tiny", "--epochs", "1", "--batch-size", "50", "--device", "cpu")


def no_norm(num_classes: int):
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(256, num_classes))


@pytest.fixture(scope="module")
def tiny() -> Split:
    return tiny_split()


@pytest.fixture(autouse=True)
def _tiny_data(tiny, monkeypatch):
    monkeypatch.setitem(DATA_SETS, "tiny", lambda: tiny)
    without_pictures(monkeypatch)


def test_settings_reach_the_net_and_its_checkpoint(tmp_path):
    assert main(["--out", str(tmp_path), *SHORT, *RESNET]) == 0
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    assert checkpoint.net_name == "resnet"
    assert checkpoint.net_settings == {"input_shape": (1, 16, 16), "num_classes": 10, "depth": 8, "width": 3}
    assert checkpoint.build_net().head.in_features == 12


def test_a_resumed_run_keeps_its_settings_and_takes_no_others(tmp_path, capsys):
    assert main(["--out", str(tmp_path), *SHORT, *RESNET]) == 0
    resume = ("--out", str(tmp_path), "--resume", "--device", "cpu")
    assert main([*resume, "--net-setting", "width=3", "--net-setting", "depth=8"]) == 0
    capsys.readouterr()
    told = "began with net_settings {'depth': '8', 'width': '3'}, so --resume cannot take {'depth': '14'}"
    assert told in mistake(capsys, *resume, "--net-setting", "depth=14")
    assert "began with positive_gamma False" in mistake(capsys, *resume, "--positive-gamma")
    assert "began with recalibrate_bn 0" in mistake(capsys, *resume, "--recalibrate-bn", "2")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--net", "resnett"], "did you mean resnet?"),
        (["--net", "resnet", "--net-setting", "dpth=20"], "did you mean depth?"),
        (["--net", "resnet", "--net-setting", "depth=many"], "must be a whole number, got 'many'"),
        (["--net-setting", "depth"], "a net setting must be NAME=VALUE, such as depth=20, got 'depth'"),
        (["--net-setting", "=3"], "a net setting must be NAME=VALUE"),
        (["--net-setting", "hidden=3", "--net-setting", "hidden=4"], "is given twice, as 3 and as 4"),
        (["--net", "timm:resnet18x"], "timm"),
        (["--net", "no.such.module:build"], "cannot be imported here"),
    ],
)
def test_a_mistake_is_told_before_the_data_is_loaded(tmp_path, capsys, monkeypatch, flags, told):
    def load(name: str) -> Split:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(open_run, "load_split", load)
    assert told in mistake(capsys, "--out", str(tmp_path / "run"), *flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--net", "resnet", "--net-setting", "depth=21"], "depth must be 6n + 2"),
        (
            ["--net", "vgg", "--net-setting", "channels=2,2,2,2,2", "--net-setting", "convs=1,1,1,1,1"],
            "5 pool",
        ),
        (["--recalibrate-bn", "5"], "recalibrate_bn must be at most 4, the batches of an epoch, got 5"),
        (["--net", NO_NORM, "--recalibrate-bn", "2"], f"need a BatchNorm, and {NO_NORM} has none"),
        (["--net", NO_NORM, "--positive-gamma"], f"need a BatchNorm, and {NO_NORM} has none"),
        (["--batch-size", "1"], "BatchNorm needs a variance"),
    ],
)
def test_a_mistake_that_only_the_data_shows_leaves_nothing(tmp_path, capsys, flags, told):
    assert told in mistake(capsys, "--out", str(tmp_path / "run"), *SHORT, *flags)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_from_before_these_settings_goes_on(tmp_path, monkeypatch):
    from training.runs import checkpoint as checkpoint_module
    from training.runs.run import Run

    to_checkpoint = Run._to_checkpoint

    def as_before(run: Run, epoch):
        checkpoint = to_checkpoint(run, epoch)
        for key in ("net_settings", "positive_gamma", "recalibrate_bn"):
            del checkpoint.resume.config[key]
        return checkpoint

    out = Path(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_to_checkpoint", as_before)
        assert main(["--out", str(out), *SHORT]) == 0
    assert "net_settings" not in checkpoint_module.load_checkpoint(out / "checkpoint.pt").resume.config
    assert main(["--out", str(out), "--resume", "--device", "cpu"]) == 0
