"""`compare`: runs beside each other, and mistakes in one sentence."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from training.__main__ import main
from training.runs.checkpoint import load_checkpoint, save_checkpoint
from training.runs.compare import find_differences, read_run, to_table
from training_kit import mistake

ROOT = Path(__file__).parents[2]
SHORT = ("--device", "cpu", "--batch-size", "200", "--net", "mlp")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of small nets, of different widths and lengths."""
    folder = tmp_path_factory.mktemp("runs")
    for name, hidden, epochs in (("a", 8, 2), ("b", 12, 3)):
        flags = ["--net-setting", f"hidden={hidden}", "--epochs", str(epochs)]
        assert main(["--out", str(folder / name), *SHORT, *flags]) == 0
    return folder / "a", folder / "b"


def cells(table: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_the_table_says_where_runs_differ_and_what_came_of_them(runs, capsys):
    assert main(["compare", *map(str, runs)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert len({len(line) for line in lines}) == 1, "columns are aligned"
    head, *rest = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    told = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rest}
    assert [cell.strip() for cell in head] == ["", *map(str, runs)]
    assert list(told)[1:3] == ["net.hidden", "epochs"]
    assert (told["epochs"], told["net.hidden"]) == (["2", "3"], ["8", "12"])
    # 784·h + 2h and 10·h + 10: the first layer has no bias before its BatchNorm.
    parameters = [
        sum(value.numel() for value in load_checkpoint(run / "checkpoint.pt").build_net().parameters())
        for run in runs
    ]
    assert told["parameters"] == [f"{count:,}" for count in parameters]
    for column, run in enumerate(runs):
        history = load_checkpoint(run / "checkpoint.pt").resume.history
        last, accuracies = history[-1], [facts["held_out_accuracy"] for facts in history]
        best = max(accuracies)
        assert told["epochs done"][column] == f"{len(history)} of {len(history)}"
        assert told["steps"][column] == str(20 * len(history))
        assert told["train loss"][column] == f"{last['train_loss']:.4f}"
        assert told["held-out loss"][column] == f"{last['held_out_loss']:.4f}"
        assert told["train accuracy"][column] == f"{last['train_accuracy']:.2%}"
        assert told["held-out accuracy"][column] == f"{last['held_out_accuracy']:.2%}"
        best_epoch = accuracies.index(best) + 1
        assert told["best held-out accuracy"][column] == f"{best:.2%} (epoch {best_epoch})"
    assert "seed" not in told


def changed(run: Path, to: Path, **config: object) -> Path:
    """A copy of a run that began with other settings."""
    shutil.copytree(run, to)
    checkpoint = load_checkpoint(run / "checkpoint.pt")
    checkpoint.resume.config.update(config)
    save_checkpoint(to / "checkpoint.pt", checkpoint)
    return to


def test_any_setting_that_differs_is_told(runs, tmp_path):
    one = read_run(runs[0])
    for name, value in load_checkpoint(runs[0] / "checkpoint.pt").resume.config.items():
        if isinstance(value, str | int | float):
            other = {str: "another", bool: not value, int: 77, float: 0.123}[type(value)]
            other = read_run(changed(runs[0], tmp_path / name, **{name: other}))
            assert list(find_differences([one, other])) == [name]
    assert find_differences([one, one]) == {}


def test_the_best_epoch_need_not_be_the_last(runs):
    run = read_run(runs[1])
    run.history[1] = type(run.history[1])(**{**vars(run.history[1]), "held_out_accuracy": 0.999})
    assert cells(to_table([run, run]))["best held-out accuracy"][0] == "99.90% (epoch 2)"


def test_the_plot_has_a_line_for_each_run(runs, tmp_path, capsys):
    plot = tmp_path / "both.png"
    assert main(["compare", *map(str, runs), "--plot", str(plot)]) == 0
    assert "held-out loss" in capsys.readouterr().out
    picture = imread(plot)[..., :3] * 255
    for color in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        drawn = np.abs(picture - color).max(axis=-1) < 2
        half = drawn.shape[1] // 2
        assert drawn[:, :half].sum() > 100
        assert drawn[:, half:].sum() > 100


def test_other_pictures_are_no_comparison(runs, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(runs[0], other)
    checkpoint = load_checkpoint(other / "checkpoint.pt")
    checkpoint.data.mean[0] += 0.01
    save_checkpoint(other / "checkpoint.pt", checkpoint)
    assert main(["compare", str(runs[0]), str(other)]) == 0
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "different held-out pictures" in sentence


def test_a_mistake_is_one_sentence(runs, tmp_path, capsys):
    one, two = map(str, runs)
    empty, torn, old, hollow = (tmp_path / name for name in ("empty", "torn", "old", "hollow"))
    empty.mkdir()
    torn.mkdir()
    (torn / "checkpoint.pt").write_bytes((runs[0] / "checkpoint.pt").read_bytes()[:-100])
    shutil.copytree(runs[0], old)
    record = torch.load(old / "checkpoint.pt", weights_only=True)
    del record["batchnorm"]
    torch.save(record | {"schema_version": 1}, old / "checkpoint.pt")
    shutil.copytree(runs[0], hollow)
    checkpoint = load_checkpoint(runs[0] / "checkpoint.pt")
    checkpoint.resume.history[0]["colour"] = "red"
    save_checkpoint(hollow / "checkpoint.pt", checkpoint)
    for words, told in (
        ([], "the following arguments are required: FOLDER"),
        ([one], f"compare needs two runs at least, got {one} only"),
        ([one, str(tmp_path / "nowhere")], f"no run at {tmp_path / 'nowhere'}: there is no such folder"),
        ([one, f"{one}/../a"], f"{one}/../a is the same run as {one}"),
        ([one, str(empty)], f"no checkpoint at {empty / 'checkpoint.pt'}"),
        ([one, str(torn)], f"{torn / 'checkpoint.pt'} is torn"),
        ([one, str(old)], f"{old / 'checkpoint.pt'} is of an older version"),
        ([one, str(hollow)], "unexpected keyword argument 'colour'"),
        ([one, two, "--plot", "both.pdf"], "its name must end in .png, got both.pdf"),
        ([one, two, "--plot", str(empty / "no" / "p.png")], "cannot write"),
        ([one, two, "--colour"], "unrecognized arguments: --colour"),
    ):
        assert told in mistake(capsys, "compare", *words)


def test_help_shows_an_example_without_waiting_for_torch():
    code = (
        "import sys, training.__main__ as m\n"
        "try: m.main(['compare', '--help'])\n"
        "except SystemExit as e: sys.exit(3 if 'torch' in sys.modules else e.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "foldserve train compare runs/digits runs/deep" in done.stdout
