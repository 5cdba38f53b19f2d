"""Data that moved, pictures that keep their proportions, and what a source says of its own pictures."""

import json
from pathlib import Path

import pytest
from PIL import Image
from torch import nn

from data_kit import noise, write_folder
from export_kit import run_here
from service.contract.bundle import open_bundle
from service.contract.framing import Resize
from training.__main__ import main
from training.data import load_split
from training.nets.foreign.pretrained import OpenedNet
from training.runs.checkpoint import load_checkpoint

SMALL = ["--net", "cnn", "--net-setting", "channels=4,8", "--net-setting", "hidden=8", "--device", "cpu"]
FIT = [*SMALL, "--epochs", "1", "--batch-size", "8", "--augment", "none"]


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRAINING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pets(tmp_path) -> Path:
    return write_folder(tmp_path / "pets", {"cat": 20, "dog": 20}, shape=(12, 18))


def test_a_run_goes_on_with_data_that_moved(pets, tmp_path, capsys):
    assert main(["--out", str(tmp_path / "run"), "--data", f"folder:{pets}", *FIT]) == 0
    pets.rename(tmp_path / "animals")
    again = ["--out", str(tmp_path / "run"), "--device", "cpu", "--resume", "--epochs", "2"]
    assert main(again) == 2
    assert "cannot read the folder" in capsys.readouterr().err
    assert main([*again, "--data", f"folder:{tmp_path / 'animals'}"]) == 0
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt").epoch == 2
    Image.fromarray(noise(12, 18, seed=5)).save(tmp_path / "animals" / "cat" / "000.png")
    third = ["--out", str(tmp_path / "run"), "--device", "cpu", "--resume", "--epochs", "3"]
    assert main(third) == 2
    assert "was trained on" in capsys.readouterr().err


@pytest.mark.parametrize(("mode", "size"), [("longest", "12"), ("shorter", "12")])
def test_proportions_are_kept_in_training_in_the_bundle_and_in_evaluation(pets, tmp_path, capsys, mode, size):
    settings = ["--data-setting", f"size={size}", "--data-setting", f"resize={mode}"]
    assert main(["--out", str(tmp_path / "run"), "--data", f"folder:{pets}", *FIT, *settings]) == 0
    done = run_here("bundle", tmp_path / "run" / "checkpoint.pt", "--to", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    declared = open_bundle(tmp_path / "model" / "1").manifest.preprocessing
    assert declared is not None
    assert declared.resize == Resize(mode=mode, size=(12, 12))
    split = load_split(f"folder:{pets}", {"size": size, "resize": mode})
    picture = split.train_pixels[:, 0]
    is_padded = bool((picture[:, :2] == 0).all() and (picture[:, -2:] == 0).all())
    assert is_padded == (mode == "longest"), "12×18 becomes 8×12 with 2 lines of black on either side"
    capsys.readouterr()
    found = []
    for source in (tmp_path / "run", tmp_path / "model" / "1"):
        assert main(["evaluate", str(source), "--data", f"folder:{pets}", "--json", "--device", "cpu"]) == 0
        found.append(json.loads(capsys.readouterr().out)["confusion"])
    assert found[0] == found[1]


def test_a_run_that_replaces_another_leaves_none_of_its_pictures_when_it_is_interrupted(
    pets, tmp_path, monkeypatch
):
    flags = ["--out", str(tmp_path / "run"), "--data", f"folder:{pets}", *FIT]
    assert main(flags) == 0
    assert (tmp_path / "run" / "confusion.png").exists()

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("training.runs.run.Run._write_metrics", interrupt)
    monkeypatch.setattr("training.runs.run.Run._draw_curves", lambda self: None)
    assert main([*flags, "--seed", "1", "--overwrite"]) == 130
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt").seed == 1
    assert not list((tmp_path / "run").glob("*.png"))


def test_people_get_a_table_and_pipes_get_json(pets, tmp_path, monkeypatch, capsys):
    flags = ["--data", f"folder:{pets}", *FIT]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["--out", str(tmp_path / "one"), *flags]) == 0
    shown = capsys.readouterr().out
    assert "| held out accuracy" in shown
    assert main(["--out", str(tmp_path / "two"), *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epoch"] == 1


def test_an_unknown_rule_is_one_sentence(pets, capsys, tmp_path):
    flags = ["--out", str(tmp_path / "run"), "--data", f"folder:{pets}", *FIT]
    assert main([*flags, "--data-setting", "resize=shortest"]) == 2
    assert "unknown resize 'shortest', known: exact, longest, shorter" in capsys.readouterr().err


def test_a_packages_net_brings_size_mean_and_interpolation(pets, tmp_path, monkeypatch):
    """As timm says them of its published weights; what is asked for on the command line counts more."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))
    opened = OpenedNet(
        net=net, row_shape=(3, 10, 14), mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bicubic"
    )
    monkeypatch.setattr("training.runs.source.open_net", lambda text: opened)
    monkeypatch.setattr("training.runs.open.load_source", lambda *arguments: ["loaded"])
    flags = ["--data", f"folder:{pets}", *FIT, "--init-from", "timm:any"]
    assert main(["--out", str(tmp_path / "run"), *flags]) == 0
    facts = load_checkpoint(tmp_path / "run" / "checkpoint.pt").data
    assert (facts.input_shape, facts.mode) == ((3, 10, 14), "RGB")
    assert (facts.mean, facts.std) == ([0.5] * 3, [0.25] * 3)
    assert facts.resizing == Resize(mode="shorter", size=(10, 14), interpolation="bicubic")
    assert main(["--out", str(tmp_path / "own"), *flags, "--data-setting", "size=8"]) == 0
    assert load_checkpoint(tmp_path / "own" / "checkpoint.pt").data.input_shape == (3, 8, 8)


def test_our_own_source_brings_its_size_too(pets, tmp_path):
    first = ["--out", str(tmp_path / "first"), "--data", f"folder:{pets}", *FIT, "--data-setting", "size=10"]
    assert main(first) == 0
    source = tmp_path / "first" / "checkpoint.pt"
    tuned = ["--out", str(tmp_path / "second"), "--data", f"folder:{pets}", "--init-from", str(source)]
    assert main([*tuned, "--epochs", "1", "--batch-size", "8", "--device", "cpu"]) == 0
    assert load_checkpoint(tmp_path / "second" / "checkpoint.pt").data.input_shape == (1, 10, 10)
