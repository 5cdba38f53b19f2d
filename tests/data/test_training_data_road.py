"""Users' data goes the whole road by the commands that a user types; mistakes end it before it begins."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from data_kit import idx_files, noise, publish_idx, write_folder
from export_kit import run_here
from service.contract.bundle import open_bundle
from service_kit import serving
from training.__main__ import main
from training.data import DATA_SETS
from training.data.sets.mnist import CLOTHES, load_mnist
from training.runs.checkpoint import load_checkpoint

SMALL = ["--net", "small-cnn", "--net-setting=channels=4,8", "--net-setting=hidden=8", "--device", "cpu"]
SHORT = [*SMALL, "--epochs", "2", "--batch-size", "10"]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("TRAINING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def paint(root: Path) -> Path:
    """Bright cats and dark dogs, 12×10, in colour and in several formats."""
    for name, darkest in (("cat", 128), ("dog", 0)):
        (root / name).mkdir(parents=True)
        for row, pixels in enumerate(noise(50, 12, 10, 3, seed=darkest) // 2 + darkest):
            kind = ("png", "webp", "bmp")[row % 3]
            Image.fromarray(pixels).save(root / name / f"{row}.{kind}", lossless=True)
    return root


def test_a_folder_is_trained_on_and_served_by_the_names_of_its_classes(tmp_path, capsys):
    root, out = paint(tmp_path / "pets"), tmp_path / "run"
    (root / "cat" / "broken.png").write_bytes(b"")
    flags = [
        "--data",
        f"folder:{root}",
        "--data-setting=max_corrupt_share=0.02",
        "--data-setting=memory_mb=0",
    ]
    assert main(["--out", str(out), *flags, *SHORT, "--epochs", "6"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["held_out_accuracy"] == 1.0
    reason = "cat/broken.png (it is empty: 0 bytes)"
    assert f"data: 1 of 101 pictures (0.99%) of {root} cannot be read: {reason}" in said.err
    done = run_here("bundle", out / "checkpoint.pt", "--to", tmp_path / "models" / "pets")
    assert done.returncode == 0, done.stderr
    manifest = open_bundle(tmp_path / "models" / "pets" / "1").manifest
    assert manifest.labels == ["cat", "dog"]
    assert manifest.preprocessing is not None
    assert (manifest.preprocessing.mode, manifest.preprocessing.height, manifest.preprocessing.width) == (
        "RGB",
        12,
        10,
    )
    with serving(tmp_path / "models", "--threads", "1") as server:
        for name in ("cat", "dog"):
            answer = httpx.post(f"{server.url}/predict", content=(root / name / "0.png").read_bytes())
            assert answer.json()["predictions"][0]["label"] == name


def test_fashion_mnists_classes_travel_into_the_bundle(tmp_path, monkeypatch):
    published, _ = publish_idx(idx_files())
    (tmp_path / "data").mkdir()
    for name, content in idx_files().items():
        (tmp_path / "data" / name).write_bytes(content)
    monkeypatch.setenv("TRAINING_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(DATA_SETS, "fashion-mnist", lambda: load_mnist(published, CLOTHES))
    out = tmp_path / "run"
    assert main(["--out", str(out), "--data", "fashion-mnist", *SHORT]) == 0
    done = run_here("bundle", out / "checkpoint.pt", "--to", tmp_path / "fashion")
    assert done.returncode == 0, done.stderr
    labels = open_bundle(tmp_path / "fashion" / "1").manifest.labels
    assert labels is not None
    assert labels[:2] == ["T-shirt/top", "Trouser"]
    assert labels[9] == "Ankle boot"


def test_streamed_pictures_train_the_same_net_as_those_in_memory(tmp_path):
    root = paint(tmp_path / "pets")
    for memory in ("0", "100"):
        flags = ["--data", f"folder:{root}", f"--data-setting=memory_mb={memory}"]
        assert main(["--out", str(tmp_path / memory), *flags, *SHORT, "--augment", "crop,flip,cutout"]) == 0
    streamed, held = (load_checkpoint(tmp_path / memory / "checkpoint.pt") for memory in ("0", "100"))
    assert all((streamed.state_dict[name] == value).all() for name, value in held.state_dict.items())
    assert streamed.data == held.data


def test_a_stopped_run_goes_on_with_its_data_and_its_augmentation(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", x=noise(60, 10, 10), y=np.arange(60) % 2)
    flags = ["--data", f"npz:{tmp_path}/a.npz", "--augment", "shift=2,flip", *SHORT]
    assert main(["--out", str(tmp_path / "run"), *flags]) == 0
    capsys.readouterr()
    assert main(["--out", str(tmp_path / "run"), "--resume", "--augment", "flip"]) == 2
    assert "began with augment shift=2,flip, so --resume cannot take flip" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "run"), "--resume"]) == 0
    np.savez(tmp_path / "a.npz", x=noise(60, 10, 10) // 2, y=np.arange(60) % 2)
    assert main(["--out", str(tmp_path / "run"), "--resume"]) == 2
    assert "was trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--data", "fashion-mist"],
            "unknown data set 'fashion-mist', known: .*; did you mean fashion-mnist?",
        ),
        (["--data", "folder:{tmp}/gone"], "cannot read the folder {tmp}/gone: No such file or directory"),
        (["--data", "npz:{tmp}/gone.npz"], "no file {tmp}/gone.npz"),
        (["--data-setting", "size"], "a data setting must be NAME=VALUE, such as size=64, got 'size'"),
        (["--data-setting", "size=8"], "data set digits has no settings, got size"),
        (["--augment", "crop,flop"], "unknown augmentation 'flop', known: .*; did you mean flip?"),
        (["--augment", "crop=99"], "augmentation crop=99 needs pictures larger than 99, got 28"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_begins(tmp_path, capsys, flags, sentence):
    out = tmp_path / "run"
    assert main(["--out", str(out), *(flag.format(tmp=tmp_path) for flag in flags), *SHORT]) == 2
    told = capsys.readouterr().err.removeprefix("training: ").removesuffix("\n")
    before, _, behind = sentence.format(tmp=tmp_path).partition(".*")
    assert told.startswith(before)
    assert told.endswith(behind)
    assert "\n" not in told
    assert not out.exists()


def test_a_checkpoint_is_opened_without_pillow():
    """Export opens checkpoints, and its image brings no Pillow."""
    code = "import sys; import training.runs.checkpoint, training.data; print('PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_net_that_cannot_take_the_pictures_is_told_before_they_are_decoded(tmp_path, capsys):
    root = write_folder(tmp_path / "pets", {"cat": 5, "dog": 5}, shape=(3, 3))
    assert main(["--out", str(tmp_path / "run"), "--data", f"folder:{root}", "--net", "cnn"]) == 2
    told = capsys.readouterr().err
    assert "poolings leave nothing of (3, 3) pixels" in told
    assert "decoding" not in told
