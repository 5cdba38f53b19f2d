"""Where a run computes: the device, the layout of a net on it, and deterministic algorithms.

In: a device's name.  Out: the device, or a sentence why not.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from service.contract.text import first_line
from training.distributed.launch import Launch
from training.errors import TrainingError
from training.settings.config import ConfigError

ONEDNN_BLOCK = 16
"""Channels at once with AVX-512; with AVX2 they are 8."""


class DeviceError(TrainingError):
    """A device that was asked for and is not there."""


def find_device(name: str, launch: Launch | None = None) -> torch.device:
    """`auto` takes the GPU where there is one; of several processes on a machine each takes its own."""
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise DeviceError("cuda was asked for, but torch finds no GPU here: use --device cpu or auto")
    if name == "cpu" or not has_cuda:
        return torch.device("cpu")
    if launch is None or launch.size == 1:
        return torch.device("cuda")
    if launch.local_rank >= (count := torch.cuda.device_count()):
        raise DeviceError(
            f"this machine has {count} GPUs, and more processes: start {count} of them, or take --device cpu"
        )
    return torch.device("cuda", launch.local_rank)


def place(net: nn.Module, device: torch.device) -> nn.Module:
    """Channels last is the layout in which convolutions are fastest, on CPUs and GPUs alike."""
    if device.type == "cpu" and any(map(is_unsafe_channels_last, net.modules())):
        return net.to(device)
    placed: nn.Module = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def is_unsafe_channels_last(module: nn.Module) -> bool:
    """A strided 1×1 Conv of fewer channels than oneDNN takes at once.

    The gradient of its weights is written outside of its memory (uxlfoundation/oneDNN, issue 6035, seen with
    AVX2 and torch 2.13): the process crashes, its threads wait for ever, or the gradient is wrong.
    """
    if not isinstance(module, nn.Conv2d) or set(module.kernel_size) != {1} or set(module.stride) == {1}:
        return False
    return module.in_channels // module.groups < ONEDNN_BLOCK


def initialize_mkl() -> None:
    """Let MKL detect the CPU now, in one thread.

    Its vector functions do so at their first call in a process, and store the CPU's type before they have
    looked up which kernel that means. If two threads make a first cos() at once, one may read the
    half-written state, and compute its half with a kernel of 4 digits (docs/decisions/0017).
    """
    torch.zeros(1).cos()


def check_compiler(device: torch.device) -> None:
    """Compile something small, so that a missing compiler is a ConfigError before anything long starts."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(4, device=device))
    except Exception as error:  # each backend has errors of its own
        lines = [line for line in str(error).splitlines() if line and not line.startswith("backend=")]
        reason = (lines or [type(error).__name__])[0]
        raise ConfigError(f"compile needs a compiler for the {device.type}: {reason}") from None


def be_deterministic() -> None:
    """From here on a GPU takes only algorithms that repeat themselves; a CPU does so anyway."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


@contextmanager
def explaining() -> Iterator[None]:
    """Within, a full memory or an algorithm without a deterministic form is a DeviceError of one sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise DeviceError("the GPU's memory is full: try a smaller --batch-size or net") from None
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise DeviceError("the memory is full: try a smaller --batch-size or net") from None
        if "deterministic" in str(error):
            raise DeviceError(f"--deterministic cannot be had with this net: {first_line(error)}") from None
        raise
