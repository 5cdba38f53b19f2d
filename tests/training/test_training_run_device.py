"""Where a run computes, and that MKL knows the CPU before two threads ask at once."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from training.loop.device import DeviceError, explaining, find_device, place

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
