"""Where a run computes, and that MKL knows the CPU before two threads ask at once."""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from training.__main__ import main
from training.loop.device import DeviceError, explaining, find_device, place
from training.runs.checkpoint import load_checkpoint
from training.settings.environment import keep_freed_memory
from training_kit import facts_of, mistake

ROOT = Path(__file__).parents[2]
LIBRARY = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
NOTE = "mkl_vml_serv_cpu_detect.vml_cpu_type"  # static, -1 before the first call of a vector function

# Reads MKL's note where the loop and a run are about to begin.
PROBE = """
import ctypes, json, sys
from pathlib import Path
from types import SimpleNamespace
from training.settings.environment import set_environment
set_environment()
import torch
from training.loop import fit
from training.runs import open as open_run
with open("/proc/self/maps") as maps:
    lines = [line.split() for line in maps if line.rstrip().endswith("libtorch_cpu.so")]
(base,) = [int(line[0].split("-")[0], 16) for line in lines if int(line[2], 16) == 0]
note = ctypes.c_int.from_address(base + int(sys.argv[1], 16))
found = {"import": note.value}

def stop(where):
    def probe(*arguments, **settings):
        found[where] = note.value
        raise KeyboardInterrupt
    return probe

def begin_fit():
    fit.prepare = stop("fit")
    next(fit.fit(None, SimpleNamespace(train_labels=torch.zeros(1)), None))

def begin_run():
    open_run._begin = stop("run")
    open_run.open_run(Path("nowhere"), {}, device="cpu")

for begin in (begin_fit, begin_run):
    note.value = -1
    try:
        begin()
    except KeyboardInterrupt:
        pass
print(json.dumps(found))
"""


def find_note() -> str:
    """Where in the library the note lies."""
    if shutil.which("nm") is None:
        pytest.skip("no nm here to look into the library")
    table = subprocess.run(["nm", str(LIBRARY)], capture_output=True, text=True, check=False).stdout
    lines = [line.split() for line in table.splitlines() if line.endswith(NOTE)]
    if not lines:
        pytest.skip("this torch has no MKL of the kind that needs it")
    return lines[0][0]


def test_mkl_knows_the_cpu_before_a_loop_and_before_a_run_begins():
    command = [sys.executable, "-c", PROBE, find_note()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.keys() == {"import", "fit", "run"}
    assert found["import"] == -1
    assert min(found["fit"], found["run"]) >= 0


def test_cpu_is_what_its_name_says_and_auto_takes_what_is_there(monkeypatch):
    assert find_device("cpu") == torch.device("cpu")
    for has_cuda in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_cuda=has_cuda: has_cuda)
        assert find_device("auto").type == ("cuda" if has_cuda else "cpu")
    with pytest.raises(DeviceError, match="torch finds no GPU here"):
        find_device("cuda")


def test_a_net_is_placed_channels_last():
    net = place(nn.Conv2d(3, 8, 3), torch.device("cpu"))
    assert net.weight.is_contiguous(memory_format=torch.channels_last)
    assert not net.weight.is_contiguous()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            "the GPU's memory is full",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you"
            ),
            "the memory is full",
        ),
        (
            RuntimeError("x_backward_cuda does not have a deterministic implementation, but you set …\nmore"),
            "--deterministic cannot be had with this net: x_backward_cuda does not have",
        ),
    ],
)
def test_what_a_gpu_cannot_do_is_one_sentence(error, told):
    with pytest.raises(DeviceError, match=told) as caught, explaining():
        raise error
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_explained_away():
    with pytest.raises(RuntimeError, match="shapes do not match"), explaining():
        raise RuntimeError("shapes do not match")


def test_cuda_asked_for_and_absent(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch finds no GPU here" in mistake(capsys, "--out", str(tmp_path / "run"), "--device", "cuda")
    assert not list(tmp_path.iterdir())


def run_compiled(out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    flags = ["--net", "mlp", "--net-setting", "hidden=8", "--device", "cpu", "--compile"]
    command = [sys.executable, "-m", "training", "--out", str(out), *flags, "--epochs", "1"]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(out.parent / "inductor")} | environment
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_a_compiled_net_learns_and_its_checkpoint_is_that_of_a_plain_one(tmp_path):
    done = run_compiled(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert sorted(checkpoint.state_dict) == sorted(checkpoint.build_net().state_dict())
    assert facts_of(done.stdout)["held_out_accuracy"] > 0.5


def test_without_a_compiler_compile_is_refused_before_anything_runs(tmp_path):
    done = run_compiled(tmp_path / "run", CXX="/nowhere/g++")
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("training: compile needs a compiler for the cpu: ")
    assert "/nowhere/g++" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch has no CUDA device")
def test_a_run_on_a_gpu_goes_on_and_its_checkpoint_opens_on_a_cpu(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["--out", out, "--device", "cuda", "--epochs", "2"]) == 0
    assert facts_of(capsys.readouterr().out)["device"] == "cuda"
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert {value.device.type for value in checkpoint.state_dict.values()} == {"cpu"}
    assert main(["--out", out, "--device", "cuda", "--resume"]) == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_memory_that_a_step_freed_is_not_cleared_again():
    """64 MiB, as activations of large pictures: the kernel used to clear 16,384 pages at every step."""

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(64 << 18)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    keep_freed_memory()
    # A small block may lie after the first large one, so that the second takes new memory once more.
    assert min(faults() for _ in range(8)) < 1000
