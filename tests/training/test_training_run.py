"""The command: its files, one line of JSON, runs that survive a stop, and mistakes in one sentence."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from training.__main__ import main
from training.data import load_split
from training.figures.curves import draw_curves
from training.figures.figure import to_png
from training.loop.evaluate import evaluate
from training.loop.facts import EpochFacts, StepFacts
from training.runs.checkpoint import load_checkpoint
from training.runs.display import Display
from training_kit import facts_of, mistake

ROOT = Path(__file__).parents[2]
FIVE_BLOCKS = ("--net-setting", "channels=4,4,4,4,4", "--net-setting", "kernels=3,3,3,3,3")
SHORT = ("--device", "cpu", "--epochs", "2", "--batch-size", "200")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main(["--out", str(out), *SHORT]) == 0
    return out


def test_a_run_leaves_its_files_and_nothing_else(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoint.pt",
        "confusion.png",
        "curves.png",
        "metrics.jsonl",
        "mistakes.png",
    ]
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert [line["step"] for line in lines] == [20, 40]
    assert load_checkpoint(finished / "checkpoint.pt").metrics == lines[-1]


def test_the_checkpoint_answers_as_its_metrics_say(finished):
    checkpoint, split = load_checkpoint(finished / "checkpoint.pt"), load_split("digits")
    # Whole and in the layout of a plain net: the sums run in another order than in training.
    loss, accuracy = evaluate(
        checkpoint.build_net(), split.held_out_pixels, split.held_out_labels, split.facts
    )
    assert accuracy == checkpoint.metrics["held_out_accuracy"]
    assert loss == pytest.approx(checkpoint.metrics["held_out_loss"], rel=1e-5)
    assert checkpoint.data == split.facts
    counts = torch.bincount(checkpoint.held_out_labels).tolist()
    assert counts == [min(torch.bincount(split.held_out_labels))] * 10, "as many of each class as there are"


def test_the_curves_are_a_picture_with_both_lines(finished):
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = imread(finished / "curves.png")
    assert picture.shape[0] > 400
    assert picture.shape[1] > 1000
    for color in ((0x8D, 0xA0, 0xB3), (0xD1, 0x49, 0x5B)):
        drawn = np.abs(picture[..., :3] * 255 - color).max(axis=-1) < 2
        half = drawn.shape[1] // 2
        assert drawn[:, :half].sum() > 100
        assert drawn[:, half:].sum() > 100


def test_one_epoch_is_enough_for_a_picture():
    facts = EpochFacts(
        epoch=1,
        step=1,
        learning_rate=0.1,
        train_loss=1.0,
        train_accuracy=1.0,
        held_out_loss=1.0,
        held_out_accuracy=1.0,
    )
    assert to_png(draw_curves([facts], "one")).startswith(b"\x89PNG")


@pytest.fixture
def _sigint_is_heard():
    """A shell that starts pytest in the background makes it, and what it starts, deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_sigint_is_heard")
@pytest.mark.parametrize(
    ("stop", "flags", "line"),
    [
        (signal.SIGINT, [], "epoch   1/2   step 20 "),
        (signal.SIGKILL, [], "epoch   1/2   step 20 "),
        (signal.SIGKILL, ["--checkpoint-every", "3", "--log-every", "1"], "epoch   2/2   step 4/20"),
    ],
    ids=["Ctrl-C", "kill -9", "kill -9 within an epoch"],
)
def test_a_stopped_run_goes_on_to_the_same_bits(finished, tmp_path, capsys, stop, flags, line):
    out = tmp_path / "stopped"
    command = [sys.executable, "-m", "training", "--out", str(out), *SHORT, *flags]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        heard = []
        while not (heard and heard[-1].startswith(line)):
            heard.append(process.stderr.readline())
            assert heard[-1], "".join(heard)
        process.send_signal(stop)
        stdout, stderr = process.communicate()
    assert stdout == ""
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert stderr.splitlines()[-1].startswith("training: interrupted after epoch ")
        assert stderr.splitlines()[-1].endswith(" of 2; add --resume to continue")
        assert (out / "curves.png").exists()
    else:
        assert process.returncode == -signal.SIGKILL
    assert load_checkpoint(out / "checkpoint.pt").epoch == 1
    assert (out / "partial-epoch.pt").exists() == bool(flags)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on a machine with fewer cores: sums would run in another order
    assert main(["--out", str(out), "--device", "cpu", "--resume"]) == 0
    assert torch.get_num_threads() == threads
    captured = capsys.readouterr()
    assert facts_of(captured.out)["epoch"] == 2
    assert "epoch   1/2" not in captured.err
    assert ("resuming in epoch 2, after its step " in captured.err) == bool(flags)
    assert (out / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert (out / "checkpoint.pt").read_bytes() == (finished / "checkpoint.pt").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in finished.iterdir())


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_that_is_interrupted_within_an_epoch_is_resumed_there(
    finished, tmp_path, capsys, monkeypatch, epoch
):
    """In the place of an older run: from the first file on, that is gone."""
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    on_step = Display.on_step

    def interrupt(self: Display, facts: StepFacts) -> None:
        on_step(self, facts)
        if (facts.epoch, facts.index) == (epoch, 13):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Display, "on_step", interrupt)
        assert main(["--out", str(out), *SHORT, "--overwrite", "--checkpoint-every", "5"]) == 130
    told = f"training: interrupted in epoch {epoch} of 2, saved after its step 10; add --resume to continue"
    assert capsys.readouterr().err.splitlines()[-1] == told
    names = sorted(path.name for path in out.iterdir())
    assert names == ["partial-epoch.pt"] if epoch == 1 else names[-1] == "partial-epoch.pt"
    partial = load_checkpoint(out / "partial-epoch.pt")
    assert (partial.epoch, partial.metrics) == (epoch - 1, {})
    assert "partial-epoch.pt is already there" in mistake(capsys, "--out", str(out), *SHORT) or epoch == 2
    older = (out / "partial-epoch.pt").read_bytes()

    assert main(["--out", str(out), "--device", "cpu", "--resume"]) == 0
    assert f"resuming in epoch {epoch}, after its step 10" in capsys.readouterr().err
    # As after a kill between the two writes: the epoch's own file counts.
    (out / "partial-epoch.pt").write_bytes(older)
    assert main(["--out", str(out), "--device", "cpu", "--resume"]) == 0
    assert "every epoch is done already" in capsys.readouterr().err
    for name in ("checkpoint.pt", "metrics.jsonl", "curves.png"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_the_same_command_writes_the_same_bytes(finished, tmp_path, capsys):
    assert main(["--out", str(tmp_path), *SHORT]) == 0
    facts = facts_of(capsys.readouterr().out)
    assert (facts["out"], facts["epoch"], facts["device"]) == (str(tmp_path), 2, "cpu")
    for name in ("checkpoint.pt", "metrics.jsonl", "curves.png"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def test_resuming_a_finished_run_changes_nothing_and_tells_its_facts(finished, copied, capsys):
    (copied / "metrics.jsonl").unlink()
    assert main(["--out", str(copied), "--device", "cpu", "--resume"]) == 0
    captured = capsys.readouterr()
    assert facts_of(captured.out)["epoch"] == 2
    assert "every epoch is done already" in captured.err
    for name in ("checkpoint.pt", "metrics.jsonl", "curves.png"):
        assert (copied / name).read_bytes() == (finished / name).read_bytes()


def test_overwriting_keeps_the_old_run_until_the_new_one_has_something(copied, capsys, monkeypatch):
    before = (copied / "checkpoint.pt").read_bytes()

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.runs.run.fit", interrupt)
        assert main(["--out", str(copied), *SHORT, "--overwrite"]) == 130
    assert "before the first epoch ended; nothing was saved" in capsys.readouterr().err
    assert (copied / "checkpoint.pt").read_bytes() == before
    assert main(["--out", str(copied), *SHORT, "--epochs", "1", "--overwrite"]) == 0
    assert load_checkpoint(copied / "checkpoint.pt").epoch == 1
    assert len((copied / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_finished_run_is_extended_as_if_it_had_been_meant_to_be_longer(tmp_path, capsys):
    """With a constant rate, whose first epochs do not depend on how many there will be."""
    flags = [*SHORT, "--data", "synthetic:1x8x8x3", "--net", "mlp", "--schedule", "constant"]
    assert main(["--out", str(tmp_path / "long"), *flags, "--epochs", "3"]) == 0
    assert main(["--out", str(tmp_path / "short"), *flags, "--epochs", "2"]) == 0
    assert main(["--out", str(tmp_path / "short"), "--device", "cpu", "--resume", "--epochs", "3"]) == 0
    assert "resuming after epoch 2" in capsys.readouterr().err
    long, extended = (tmp_path / name / "checkpoint.pt" for name in ("long", "short"))
    assert long.read_bytes() == extended.read_bytes()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "is already there: add --resume to continue it, or --overwrite to replace it"),
        (["--resume", "--epochs", "1"], "began with epochs 2, so --resume cannot take 1"),
        (["--resume", "--learning-rate", "0.2"], "began with learning_rate 0.1, so --resume cannot take 0.2"),
    ],
)
def test_an_existing_run_is_safe(copied, finished, capsys, flags, told):
    assert told in mistake(capsys, "--out", str(copied), *flags)
    for path in finished.iterdir():
        assert (copied / path.name).read_bytes() == path.read_bytes()


def test_a_torn_checkpoint_is_not_resumed(copied, capsys):
    content = (copied / "checkpoint.pt").read_bytes()
    (copied / "checkpoint.pt").write_bytes(content[:-1000])
    assert "torn" in mistake(capsys, "--out", str(copied), "--resume")


def test_a_run_of_an_older_version_is_not_gone_on_with(copied, capsys):
    path = copied / "checkpoint.pt"
    record = torch.load(path, weights_only=True)
    del record["batchnorm"]
    torch.save(record | {"schema_version": 1}, path)
    sentence = mistake(capsys, "--out", str(copied), "--resume")
    assert sentence.endswith(f"{path} is of an older version: it can be exported, but not resumed")


def test_a_run_that_diverges_keeps_its_last_good_epoch(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["--out", out, *SHORT, "--learning-rate", "1e30"]) == 1
    (sentence,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("training: "))
    assert "the loss became" in sentence
    assert "at step" in sentence


def test_help_shows_an_example_without_waiting_for_torch():
    code = (
        "import sys, training.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit as e: sys.exit(3 if 'torch' in sys.modules else e.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "foldserve train --out runs/digits" in done.stdout
