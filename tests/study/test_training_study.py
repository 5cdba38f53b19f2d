"""A whole study, very small: cells that are measured once, a report that says what was measured."""

import json
import os
import re
import shutil
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch

from study.__main__ import main
from study.claims import LOOKS, POINTS, Claim
from study.experiments import EXPERIMENTS
from study.finding import Finding, with_spread
from study.lab import Lab, NotMeasuredError, StudyError
from study.report import anchor
from study.scale import FIRST_SEED, TUNING_SEEDS
from study_kit import TINY, use_tiny_data
from training.console import to_markdown

COMMITTED = Path(__file__).parents[2] / "study" / "results"
FLAGS = ["--quick", "--data", "tiny", "--jobs", "1"]
CALLS = []


@dataclass(frozen=True, kw_only=True)
class Square:
    """A cell that costs nothing."""

    number: int

    def measure(self) -> dict[str, int]:
        CALLS.append(self.number)
        return {"square": self.number**2, "threads": torch.get_num_threads(), "process": os.getpid()}


@dataclass(frozen=True, kw_only=True)
class Killed(Square):
    """One that takes its process along."""

    def measure(self) -> dict[str, int]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


@pytest.fixture(autouse=True)
def _no_calls():
    CALLS.clear()


def squares(lab: Lab, *numbers: int) -> list[int]:
    return [result["square"] for result in lab.measure([Square(number=number) for number in numbers])]


def test_a_cell_is_measured_once(tmp_path):
    told = []
    lab = Lab(tmp_path, {"rows": "a"}, on_cell=lambda *counts: told.append(counts))
    assert squares(lab, 3, 2, 3) == [9, 4, 9]
    assert squares(lab, 2, 5) == [4, 25]
    assert CALLS == [3, 2, 5]
    assert told == [(0, 2), (1, 2), (2, 2), (0, 1), (1, 1)]
    assert squares(Lab(tmp_path, {"rows": "a"}), 2, 5, 3) == [4, 25, 9]
    assert CALLS == [3, 2, 5]
    assert squares(Lab(tmp_path, {"rows": "b"}), 2) == [4], "other rows, another cell"
    assert CALLS == [3, 2, 5, 2]
    assert len(list(tmp_path.iterdir())) == 4, "and nothing half-written"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"cell": {}, "result": {"square": 7}}', b"\xff"])
def test_a_damaged_cell_is_measured_again(tmp_path, damage):
    lab = Lab(tmp_path, {})
    assert squares(lab, 4) == [16]
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage)
    with pytest.raises(NotMeasuredError, match=re.escape(str(path))):
        lab.recall([Square(number=4)])
    assert squares(lab, 4) == [16]
    assert lab.recall([Square(number=4)])[0]["square"] == 16


def test_processes_side_by_side_give_the_same_and_a_dead_one_is_a_sentence(tmp_path):
    """Real processes; each computes with one thread, as this one does."""
    with Lab(tmp_path, {}, jobs=2) as lab:
        results = lab.measure([Square(number=number) for number in range(6)])
        with pytest.raises(StudyError, match="a process of the study was killed"):
            lab.measure([Killed(number=1), Killed(number=2)])
    assert [result["square"] for result in results] == [0, 1, 4, 9, 16, 25]
    assert {result["threads"] for result in results} == {1}
    assert os.getpid() not in {result["process"] for result in results}
    assert not CALLS
    (alone,) = Lab(tmp_path / "..", {}).measure([Square(number=7)])
    assert alone["threads"] == 1
    assert squares(lab, *range(6)) == [0, 1, 4, 9, 16, 25]


@pytest.fixture(scope="module")
def studied(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_data(patch)
        assert main([*FLAGS, "--out", str(out)]) == 0
    return out


def test_the_report_has_every_claim_plot_and_conditions(studied):
    report = (studied / "report.md").read_text(encoding="utf-8")
    claims = json.loads((studied / "claims.json").read_text(encoding="utf-8"))
    assert {claim["experiment"] for claim in claims} == set(EXPERIMENTS)
    for claim in claims:
        row = next(line for line in report.splitlines() if line.startswith(f"| [{claim['text']}]"))
        assert claim["verdict"] in row
        assert len(claim["values"]) == 2
        assert "| 2 |" in row
        assert f"## {re.search(r'#([^)]*)', row)[1]}" in {
            f"## {anchor(line.removeprefix('## '))}" for line in report.splitlines() if line.startswith("## ")
        }
    plots = set(re.findall(r"\]\((\S+\.png)\)", report))
    assert plots == {path.name for path in studied.glob("*.png")}
    assert len(plots) == 13
    for name in plots:
        assert (studied / name).read_bytes().startswith(b"\x89PNG")
    for words in (
        "**tiny**, 200 rows of 1 × 16 × 16",
        "100 held out",
        "n = 2 seeds**",
        "--quick",
        "## Left out",
    ):
        assert words in report
    assert "depths: 8, 14 instead of 8, 20, 32" in report


@pytest.mark.usefixtures("tiny_data")
def test_the_same_command_again_measures_nothing_and_writes_the_same(studied, tmp_path, capsys, monkeypatch):
    out = tmp_path / "copy"
    shutil.copytree(studied, out)
    monkeypatch.setattr("study.lab.measure_alone", pytest.fail)
    assert main([*FLAGS, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out / 'report.md'}\n"
    assert shown.err.count("nothing left to measure") == len(EXPERIMENTS)
    for path in studied.glob("*.*"):
        content = path.read_bytes().replace(str(studied).encode(), str(out).encode())
        assert (out / path.name).read_bytes() == content, path.name


@pytest.mark.usefixtures("tiny_data")
def test_one_experiment_alone_gives_the_same_numbers_and_says_what_is_missing(studied, tmp_path):
    assert main([*FLAGS, "--out", str(tmp_path), "--only", "order"]) == 0
    whole, alone = (json.loads((out / "claims.json").read_text()) for out in (studied, tmp_path))
    assert alone == [claim for claim in whole if claim["experiment"] == "order"]
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert report.count("not measured") == len(EXPERIMENTS) - 1
    assert "`depth`: not measured" in report


@pytest.mark.usefixtures("tiny_data")
def test_an_interrupted_study_goes_on(studied, tmp_path, capsys, monkeypatch):
    flags = [*FLAGS, "--out", str(tmp_path), "--only", "order"]
    with monkeypatch.context() as patch:
        patch.setattr("study.short_run.count_gammas", _interrupt_at(3))
        assert main(flags) == 130
    assert "the same command resumes it" in capsys.readouterr().err
    assert not (tmp_path / "report.md").exists()
    kept = {path.name for path in (tmp_path / "cells").iterdir()}
    assert len(kept) == 2
    assert main(flags) == 0
    cells = {path.name for path in (tmp_path / "cells").iterdir()}
    assert kept < cells
    assert f"{len(cells) - 2} cells measured" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny_data")
def test_more_seeds_only_until_every_claim_is_decided(tmp_path, monkeypatch):
    looks = []

    def experiment(scale, measure):
        looks.append(scale.seeds)
        is_clear = len(scale.seeds) >= 10
        values = [1.0 if is_clear else (-1.0) ** seed for seed in scale.seeds]
        claim = Claim(text="c", measured_by="m", values=tuple(values), margin=0.5, unit=POINTS)
        return Finding(title="t", done="d", claims=[claim], plots=[], table="")

    monkeypatch.setattr("study.experiments.EXPERIMENTS", {"order": experiment})
    monkeypatch.setitem(TINY, "looks", LOOKS)
    flags = [*FLAGS, "--out", str(tmp_path)]
    assert main(flags) == 0
    assert [len(seeds) for seeds in looks] == [5, 10]
    assert set(looks[0]) < set(looks[1])
    assert not set(looks[1]) & {*TUNING_SEEDS, *range(FIRST_SEED)}
    looks.clear()
    assert main([*flags, "--seeds", "7"]) == 0
    assert [len(seeds) for seeds in looks] == [5, 7]

    def unfinished(scale, measure):
        if len(scale.seeds) > 5:
            raise NotMeasuredError("there is no more")
        return experiment(scale, measure)

    monkeypatch.setattr("study.experiments.EXPERIMENTS", {"order": unfinished})
    assert main(flags) == 0
    assert "- `order`: 5 seeds of 20, and not decided" in (tmp_path / "report.md").read_text(encoding="utf-8")


def _interrupt_at(call: int):
    calls = iter(range(1, call + 1))

    def count_gammas(net: torch.nn.Module) -> dict[str, int]:
        if next(calls) == call:
            raise KeyboardInterrupt
        return {"gammas": 0, "gammas_below_zero": 0, "gammas_at_floor": 0}

    return count_gammas


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--only", "dept"], "unknown experiment 'dept', known: batch-size"),
        (["--jobs", "0"], "jobs must be at least 1, got 0"),
        (["--seeds", "1"], "seeds must lie in 2 .. 100, got 1"),
        (["--seeds", "101"], "seeds must lie in 2 .. 100, got 101"),
        (["--rows", "201"], "rows must be at most 200, the train half of tiny, got 201"),
        (["--rows", "60"], "rows must be at least 64, two of the largest batches, got 60"),
        (["--data", "tinny"], "unknown data set 'tinny'"),
        (["--sedes", "3"], "unrecognized arguments: --sedes 3"),
        (["--out", "/dev/null/study"], "cannot write into /dev/null/study/cells"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_done(tmp_path, capsys, monkeypatch, flags, sentence):
    monkeypatch.chdir(tmp_path)
    assert main([*FLAGS, *flags]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert sentence in shown.err
    assert shown.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "foldserve study --quick" in capsys.readouterr().out


def test_tables_are_markdown_and_spreads_are_of_the_seeds():
    assert to_markdown(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
    assert with_spread([0.1, 0.3], times=100) == "20.0 ± 14.1"


@pytest.mark.parametrize("path", sorted(COMMITTED.rglob("claims.json")), ids=lambda path: path.parent.name)
def test_the_committed_verdicts_follow_from_the_committed_values(path):
    claims = json.loads(path.read_text(encoding="utf-8"))
    report = path.with_name("report.md").read_text(encoding="utf-8")
    assert {claim["experiment"] for claim in claims} == set(EXPERIMENTS)
    for claim in claims:
        again = Claim(
            text=claim["text"],
            measured_by=claim["measured_by"],
            values=tuple(claim["values"]),
            margin=claim["margin"],
            unit=POINTS,
        )
        assert again.verdict == claim["verdict"]
        assert list(again.interval) == pytest.approx(claim["interval"])
        row = next(line for line in report.splitlines() if line.startswith(f"| [{claim['text']}]"))
        assert f" {claim['verdict']} " in row.replace("*", " ")
    assert set(asdict(again)) - {"unit"} < set(claims[0])
    for name in re.findall(r"\]\((\S+\.png)\)", report):
        assert (path.parent / name).is_file()
