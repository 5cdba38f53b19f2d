"""The command under torchrun: one process's curve, one voice, and a run that survives a killed process."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import netns_kit
from training.__main__ import main
from training.runs.checkpoint import Checkpoint, load_checkpoint

ROOT = Path(__file__).parents[2]
# 21 steps an epoch, of 19 and 18 rows in two processes.
SETTINGS = ["--data", "synthetic:1x16x16x10", "--data-setting", "rows=800", "--batch-size", "37"]
SETTINGS += ["--device", "cpu", "--net", "distributed_kit:Double", "--epochs", "4"]
SETTINGS += ["--label-smoothing", "0.1", "--clip-gradient", "1", "--ema", "0.9", "--positive-gamma"]
SETTINGS += ["--recalibrate-bn", "3"]
WITHIN = ["--checkpoint-every", "5", "--log-every", "1"]
BOUND = 1e-9
SECONDS = 120


def start(*flags: str, before: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[str]:
    """torchrun with these flags."""
    return subprocess.Popen(
        [*before, sys.executable, "-m", "torch.distributed.run", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests" / "kits"), "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def ended(*started: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever happens, nothing of it is left: torchrun ends its processes when it is told to end."""
    try:
        yield
    finally:
        for process in started:
            process.terminate()
            process.communicate(timeout=SECONDS)


def training(out: Path, *flags: str) -> list[str]:
    return ["-m", "training", "--out", str(out), *flags]


def run_two(out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """A run in two processes, to its end."""
    process = start("--nproc-per-node", "2", *training(out, *flags))
    with ended(process):
        stdout, stderr = process.communicate(timeout=SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process computes."""
    out = tmp_path_factory.mktemp("one")
    assert main(["--out", str(out), *SETTINGS]) == 0
    return out


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """What two do, and what they said."""
    out = tmp_path_factory.mktemp("two")
    return out, run_two(out, *SETTINGS)


def curve(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def state_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Everything that a run resumes from: weights, their average, momenta."""
    assert checkpoint.resume is not None
    state = checkpoint.resume.state
    momenta = {f"momentum {key}": entry["momentum_buffer"] for key, entry in state.optimizer["state"].items()}
    training_weights = {f"training {key}": value for key, value in state.weights.items()}
    return {**checkpoint.state_dict, **training_weights, **momenta}


def assert_same_within_bound(found: Path, expected: Path) -> None:
    for epoch, (ours, theirs) in enumerate(zip(curve(found), curve(expected), strict=True)):
        assert ours.keys() == theirs.keys(), epoch
        assert all(abs(ours[key] - theirs[key]) <= BOUND for key in theirs), epoch
    ours, theirs = (state_of(load_checkpoint(out / "checkpoint.pt")) for out in (found, expected))
    assert ours.keys() == theirs.keys()
    assert all((ours[key] - value).abs().max() <= BOUND for key, value in theirs.items())


def test_two_processes_follow_the_curve_of_one(one, two):
    """Losses, weights, their average, its recalibrated statistics, and momenta, after 84 steps."""
    out, _ = two
    assert_same_within_bound(out, one)


def test_one_process_speaks_and_writes(one, two):
    out, done = two
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["held_out_accuracy"] == curve(out)[-1]["held_out_accuracy"]
    assert "cpu and 2 processes" in done.stderr
    assert re.findall(r"^epoch +(\d)/4", done.stderr, re.MULTILINE) == list("1234")
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in one.iterdir())


def test_the_checkpoint_is_one_processs_too(two):
    checkpoint = load_checkpoint(two[0] / "checkpoint.pt")
    assert not any("module." in key for key in checkpoint.state_dict)
    assert {type(module).__name__ for module in checkpoint.build_net().modules()} >= {
        "BatchNorm1d",
        "BatchNorm2d",
    }


@pytest.fixture
def _by_torchrun(monkeypatch):
    """As torchrun starts a single process that it may start again."""
    for name, text in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")


@pytest.mark.usefixtures("_by_torchrun")
def test_the_same_command_again_finds_everything_done(one, tmp_path, capsys):
    out = Path(shutil.copytree(one, tmp_path / "again"))
    assert main(["--out", str(out), *SETTINGS]) == 0
    assert "every epoch is done already" in capsys.readouterr().err
    assert (out / "checkpoint.pt").read_bytes() == (one / "checkpoint.pt").read_bytes()


@pytest.mark.usefixtures("_by_torchrun")
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--seed", "1"], "is already there, of a run with other settings: take another --out"),
        (["--overwrite"], "--overwrite would start over with every restart: leave --max-restarts out"),
    ],
)
def test_torchrun_goes_on_with_nothing_but_the_same_run(one, capsys, flags, told):
    before = (one / "checkpoint.pt").read_bytes()
    assert main(["--out", str(one), *SETTINGS, *flags]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert told in sentence
    assert (one / "checkpoint.pt").read_bytes() == before


def process_of(torchrun: subprocess.Popen[str], rank: int) -> int:
    """The process id of a rank that this torchrun has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, variables = (folder / "status").read_text(), (folder / "environ").read_bytes()
        except OSError:  # it has just ended
            continue
        if f"PPid:\t{torchrun.pid}\n" in status and f"RANK={rank}".encode() in variables.split(b"\0"):
            return int(folder.name)
    raise AssertionError(f"torchrun has no rank {rank}")


@dataclass(frozen=True)
class Killed:
    """A run whose first process was killed within its second epoch."""

    out: Path
    returncode: int
    stdout: str
    stderr: str
    before: Path


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    out, before = (tmp_path_factory.mktemp(name) for name in ("killed", "before"))
    process = start("--nproc-per-node", "2", "--max-restarts", "3", *training(out, *SETTINGS, *WITHIN))
    with ended(process):
        assert process.stderr is not None
        heard = [process.stderr.readline()]
        first = process_of(process, rank=0)
        while not heard[-1].startswith("epoch   2/4   step 6/21"):
            heard.append(process.stderr.readline())
            assert heard[-1], "".join(heard)
        os.kill(first, signal.SIGKILL)
        shutil.copy(out / "checkpoint.pt", before)
        stdout, stderr = process.communicate(timeout=SECONDS)
    return Killed(out, process.returncode, stdout, stderr, before)


def test_a_killed_process_costs_nothing_but_time(two, killed):
    assert killed.returncode == 0, killed.stderr
    assert len(killed.stdout.splitlines()) == 1
    resumed = r"^resuming (in epoch [2-4], after its step (5|10|15|20)|after epoch [2-3])$"
    assert re.search(resumed, killed.stderr, re.MULTILINE)
    assert "Traceback" not in killed.stderr
    assert (killed.out / "metrics.jsonl").read_bytes() == (two[0] / "metrics.jsonl").read_bytes()
    assert (killed.out / "checkpoint.pt").read_bytes() == (two[0] / "checkpoint.pt").read_bytes()
    found, expected = (state_of(load_checkpoint(out / "checkpoint.pt")) for out in (killed.out, two[0]))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_run_goes_on_with_another_number_of_processes(one, killed):
    """What two processes left, one resumes."""
    assert load_checkpoint(killed.before / "checkpoint.pt").epoch < 4
    assert main(["--out", str(killed.before), "--device", "cpu", "--resume"]) == 0
    assert_same_within_bound(killed.before, one)


def test_a_mistake_is_one_sentence_of_one_process(tmp_path):
    done = run_two(tmp_path / "run", "--data", "digit")
    said = [line for line in done.stderr.splitlines() if line.startswith("training")]
    assert len([line for line in said if "did you mean digits?" in line]) == 1
    assert "training, process 1" not in done.stderr
    assert "exitcode  : 2" in done.stderr, "torchrun's own exit code is 1 whatever happens"
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def one_machine() -> Iterator[list[tuple[tuple[str, ...], list[str]]]]:
    """Two nodes on this machine: the endpoint that both name is a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield [((), ["--rdzv-endpoint", f"127.0.0.1:{port}"])] * 2


@contextmanager
def two_namespaces() -> Iterator[list[tuple[tuple[str, ...], list[str]]]]:
    """Two nodes that share nothing but a network, each in a network namespace of its own."""
    with netns_kit.hosts(2) as (first, second):
        yield [
            (
                tuple(host.command()),
                [
                    *("--rdzv-endpoint", f"{first.address}:29400", "--local-addr", host.address),
                    *("--rdzv-conf", f"is_host={int(host is first)}"),
                ],
            )
            for host in (first, second)
        ]


@pytest.mark.parametrize("nodes", [one_machine, two_namespaces])
def test_two_torchruns_meet_and_follow_the_same_curve(two, tmp_path, nodes):
    reason = netns_kit.why_not()
    if nodes is two_namespaces and reason is not None:
        pytest.skip(reason)
    if nodes is one_machine and reason is None:
        pytest.skip("two network namespaces are tried here, which says more")
    common = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "test"]
    outs = [tmp_path / "first" / "run", tmp_path / "second" / "run"]
    with nodes() as places:
        variables = {"GLOO_SOCKET_IFNAME": "eth0"} if nodes is two_namespaces else {}
        started = [
            start(*common, *flags, *training(out, *SETTINGS), before=before, **variables)
            for (before, flags), out in zip(places, outs, strict=True)
        ]
        with ended(*started):
            said = [process.communicate(timeout=SECONDS) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    (out,) = (out for out in outs if out.exists())  # either may become the first node, and it alone writes
    assert sum(len(stdout.splitlines()) for stdout, _ in said) == 1
    assert (out / "metrics.jsonl").read_bytes() == (two[0] / "metrics.jsonl").read_bytes()
