"""What a run leaves to be looked at: pictures by the published net, and TensorBoard's events."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from training.__main__ import main
from training.data import load_split
from training.figures.confusion import count_confusions, draw_confusion
from training.figures.figure import to_png
from training.figures.mistakes import draw_mistakes, find_mistakes
from training.loop.device import place
from training.loop.evaluate import predict
from training.runs.checkpoint import load_checkpoint

FLAGS = ("--device", "cpu", "--net", "mlp", "--net-setting", "hidden=8", "--batch-size", "200")
AVERAGED = (*FLAGS, "--epochs", "2", "--ema", "0.9")


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that publishes an average of its weights."""
    out = tmp_path_factory.mktemp("runs") / "averaged"
    assert main(["--out", str(out), *AVERAGED]) == 0
    return out


def pictures_of(weights: dict[str, torch.Tensor], out: Path) -> dict[str, bytes]:
    """Both pictures, drawn here from these weights."""
    split, net = load_split("digits"), load_checkpoint(out / "checkpoint.pt").build_net()
    net.load_state_dict(weights)
    logits = predict(place(net, torch.device("cpu")), split.held_out_pixels, split.facts)
    labels, names, title = split.held_out_labels, split.facts.labels, "mlp on digits"
    assert "confusion.png" in {path.name for path in out.iterdir()}
    return {
        "confusion.png": to_png(draw_confusion(count_confusions(logits, labels), names, title)),
        "mistakes.png": to_png(
            draw_mistakes(find_mistakes(logits, labels), split.held_out_pixels, names, title)
        ),
    }


def test_the_pictures_show_the_published_net_and_not_the_one_in_training(averaged):
    checkpoint = load_checkpoint(averaged / "checkpoint.pt")
    published = pictures_of(checkpoint.state_dict, averaged)
    in_training = pictures_of(checkpoint.resume.state.weights, averaged)
    for name, content in published.items():
        assert (averaged / name).read_bytes() == content
        assert (averaged / name).read_bytes() != in_training[name]


def test_pictures_that_a_killed_run_did_not_get_to_are_drawn_when_it_goes_on(averaged, tmp_path, capsys):
    out = Path(shutil.copytree(averaged, tmp_path / "killed"))
    for path in out.glob("*.png"):
        path.unlink()
    assert main(["--out", str(out), "--device", "cpu", "--resume"]) == 0
    assert "every epoch is done already" in capsys.readouterr().err
    for path in averaged.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_a_picture_that_cannot_be_written_is_one_sentence(averaged, tmp_path, capsys):
    out = Path(shutil.copytree(averaged, tmp_path / "blocked"))
    (out / "mistakes.png").unlink()
    (out / "mistakes.png").mkdir()
    assert main(["--out", str(out), "--device", "cpu", "--resume"]) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith(f"training: cannot write {out / 'mistakes.png'}")
    )
    assert not list(out.glob(".*"))


def test_without_tensorboard_the_flag_is_refused_before_anything_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert main(["--out", str(tmp_path / "run"), *FLAGS, "--tensorboard"]) == 2
    captured = capsys.readouterr()
    (sentence,) = captured.err.splitlines()
    assert captured.out == ""
    assert sentence == (
        "training: --tensorboard needs the package tensorboard: "
        "pip install -c constraints.txt 'foldserve[tensorboard]'"
    )
    assert not list(tmp_path.iterdir())


def events_of(out: Path):
    """What TensorBoard would show of a run's folder."""
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is missing: pip install -c constraints.txt 'foldserve[tensorboard]'",
    )
    accumulator = accumulators.EventAccumulator(str(out))
    accumulator.Reload()
    return accumulator


def test_tensorboard_shows_what_the_metrics_say(tmp_path):
    pytest.importorskip(
        "tensorboard", reason="it is missing: pip install -c constraints.txt 'foldserve[tensorboard]'"
    )
    out = tmp_path / "run"
    assert main(["--out", str(out), *FLAGS, "--epochs", "2", "--tensorboard"]) == 0
    assert main(["--out", str(out), "--device", "cpu", "--resume", "--tensorboard"]) == 0
    assert len(list(out.glob("events.out.tfevents.*"))) == 2
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    events = events_of(out)
    for tag, name in (
        ("loss/train", "train_loss"),
        ("loss/held out", "held_out_loss"),
        ("accuracy/train", "train_accuracy"),
        ("accuracy/held out", "held_out_accuracy"),
        ("learning rate", "learning_rate"),
    ):
        told = [(event.step, event.value) for event in events.Scalars(tag)]
        # Events are float32, and each epoch is told once, although two files tell of it.
        assert told == [(line["epoch"], pytest.approx(line[name], rel=2**-24)) for line in metrics]
    for name in ("confusion.png", "mistakes.png"):
        (event,) = events.Images(name)
        assert event.step == 2
        assert event.encoded_image_string.startswith(b"\x89PNG")


def test_a_run_that_begins_anew_makes_tensorboard_forget_the_old_one(tmp_path):
    pytest.importorskip(
        "tensorboard", reason="it is missing: pip install -c constraints.txt 'foldserve[tensorboard]'"
    )
    out = tmp_path / "run"
    assert main(["--out", str(out), *FLAGS, "--epochs", "2", "--tensorboard"]) == 0
    assert main(["--out", str(out), *FLAGS, "--epochs", "1", "--tensorboard", "--overwrite"]) == 0
    assert [event.step for event in events_of(out).Scalars("loss/train")] == [1]
