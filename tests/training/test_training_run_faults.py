"""What a run survives: a kill at any moment, a full disk, a stop after any epoch of any kind of run."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from training.__main__ import main
from training.data import DATA_SETS
from training.files import publish
from training.runs.checkpoint import load_checkpoint
from training_kit import tiny_split, without_pictures

ROOT = Path(__file__).parents[2]
CHECKPOINT = "checkpoint.pt"
SIZE = 2_000_000


@pytest.fixture
def _tiny_data(monkeypatch):
    monkeypatch.setitem(DATA_SETS, "tiny", tiny_split)


def _interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


TINY = ["--data", "tiny", "--epochs", "3", "--batch-size", "50", "--device", "cpu"]
WAYS = {
    "float32": ["--net", "resnet", "--net-setting", "depth=8"],
    "averaged": ["--net", "small-cnn", "--ema", "0.9", "--recalibrate-bn", "2"],
    "bfloat16": ["--net", "small-cnn", "--precision", "bfloat16"],
    "positive γ": ["--net", "preact-resnet", "--net-setting", "depth=8", "--positive-gamma"],
    "all at once": [
        *["--net", "small-cnn", "--ema", "0.99", "--positive-gamma", "--recalibrate-bn", "1"],
        *["--precision", "bfloat16", "--clip-gradient", "1", "--label-smoothing", "0.1"],
        *["--schedule", "cosine"],
    ],
}


WITH_PICTURES = ("float32", "all at once")  # they follow from the net's weights, whatever the way


@pytest.mark.usefixtures("_tiny_data")
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_was_stopped_leaves_the_same_bytes(tmp_path, monkeypatch, way):
    if way not in WITH_PICTURES:
        without_pictures(monkeypatch)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    flags = [*TINY, *WAYS[way]]
    assert main(["--out", str(whole), *flags]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.runs.run.Run._write_metrics", _interrupt)
        assert main(["--out", str(stopped), *flags]) == 130
    assert load_checkpoint(stopped / CHECKPOINT).epoch == 1
    assert main(["--out", str(stopped), "--resume", "--device", "cpu"]) == 0
    for path in whole.iterdir():
        assert (stopped / path.name).read_bytes() == path.read_bytes(), path.name


def _write_for_ever(path: Path, write: Callable[[Path, bytes], object], begun: int) -> None:
    """What a child does until it is killed: two contents, one after the other."""
    while True:
        for letter in (b"a", b"b"):
            write(path, letter * SIZE)
        os.write(begun, b".")


def _is_whole(path: Path) -> bool:
    return path.read_bytes() in (b"a" * SIZE, b"b" * SIZE)


@pytest.mark.parametrize(("write", "survives"), [(publish, True), (Path.write_bytes, False)])
def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path, write, survives):
    """40 processes that do nothing but write, each killed somewhere; and a way to write that is torn."""
    path, chance, torn = tmp_path / "file", random.Random(0), 0
    for _ in range(40):
        heard, begun = os.pipe()
        child = os.fork()
        if child == 0:
            _write_for_ever(path, write, begun)
        os.close(begun)
        assert os.read(heard, 1) == b"."
        time.sleep(chance.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        os.close(heard)
        torn += not _is_whole(path)
    assert (torn == 0) == survives
    publish(path, b"a" * SIZE)
    assert [file.name for file in tmp_path.iterdir()] == ["file"], "what a kill left aside is used up"


def test_a_run_that_is_killed_again_and_again_comes_to_the_same_bytes(tmp_path):
    flags = ["--net", "mlp", "--net-setting", "hidden=8", "--epochs", "24", "--batch-size", "500"]
    flags += ["--device", "cpu", "--ema", "0.9"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["--out", str(whole), *flags]) == 0
    command = [sys.executable, "-m", "training", "--out", str(killed)]
    chance, reached = random.Random(1), [0]
    for begin in (flags, ["--device", "cpu", "--resume"], ["--device", "cpu", "--resume"]):
        with subprocess.Popen([*command, *begin], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            heard = [process.stderr.readline()]
            while heard[-1] and not heard[-1].startswith("epoch "):
                heard.append(process.stderr.readline())
            time.sleep(chance.uniform(0, 0.05))  # somewhere in an epoch, or in what is written after it
            process.kill()
        assert process.returncode == -signal.SIGKILL, "".join(heard)
        reached.append(load_checkpoint(killed / CHECKPOINT).epoch)
    assert 0 < reached[1] < reached[2] < reached[3] < 24
    assert main(["--out", str(killed), "--resume", "--device", "cpu"]) == 0
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in whole.iterdir())
    for path in whole.iterdir():
        assert (killed / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.fixture
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run after the first of its epochs."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.runs.run.Run._write_metrics", _interrupt)
        assert main(["--out", str(out), *TINY, *WAYS["averaged"]]) == 130
    return out


@contextmanager
def small_disk(tmp_path: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def small_files(tmp_path: Path, size: int) -> Iterator[Path]:
    """No file may have more bytes than this; needs no rights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield tmp_path
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_tiny_data")
@pytest.mark.parametrize(
    ("narrow", "share", "told"),
    [
        (small_disk, 1.5, "No space left on device"),
        (small_files, 0.5, "File too large"),
        (small_files, 0.005, "File too large"),  # the pictures cannot be written either
    ],
    ids=["a full disk", "a file limit", "a lower one"],
)
def test_a_full_disk_is_one_sentence_and_costs_nothing(stopped, tmp_path, capsys, narrow, share, told):
    before = (stopped / CHECKPOINT).read_bytes()
    capsys.readouterr()
    with narrow(tmp_path, int(share * len(before))) as room:
        out = room / "run"
        if narrow is small_disk:
            shutil.copytree(stopped, out)
        else:
            out.symlink_to(stopped)
        assert main(["--out", str(out), "--resume", "--device", "cpu"]) == 2
        (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training:")]
        assert sentence == f"training: cannot write {out / CHECKPOINT}: {told}"
        assert (out / CHECKPOINT).read_bytes() == before
        assert sorted(path.name for path in out.iterdir()) == [CHECKPOINT, "curves.png", "metrics.jsonl"]
    assert main(["--out", str(stopped), "--resume", "--device", "cpu"]) == 0
    assert load_checkpoint(stopped / CHECKPOINT).epoch == 3
