"""The table: a line for each case, and the conditions under which it was measured.

In: what was measured.  Out: markdown.
"""

import os
import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import torch

from benchmarks.common import cpu_model
from benchmarks.training.cases import Case
from benchmarks.training.floors import Speed, Work
from benchmarks.training.rounds import BARE, OURS, TARGET_RATIO, Rounds
from training.console import to_markdown
from training.loop.precision import resolve_precision

HEAD = (
    *("net", "rows", "batch", "ours, images/s", "bare, images/s", "ours ÷ bare", "range"),
    *("arithmetic bound, images/s", "memory bound, images/s", "ours ÷ lower bound", "weights differ by"),
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A case and its measurements."""

    case: Case
    rounds: Rounds
    work: Work


def render(
    lines: Sequence[Line], speed: Speed, device: torch.device, num_rounds: int, arguments: Sequence[str]
) -> str:
    """The whole report as Markdown; `arguments` are those of the command line."""
    reached = sum(line.rounds.is_reached for line in lines)
    return "\n".join(
        [
            "# The training loop compared with a bare PyTorch loop",
            "",
            f"`{shlex.join(['python', '-m', 'benchmarks.training', *arguments])}`",
            "",
            describe_conditions(device, num_rounds),
            "",
            to_markdown(HEAD, [_cells(line, speed) for line in lines]),
            "",
            f"- ours ÷ bare should be at least {TARGET_RATIO}: reached in {reached} of {len(lines)} lines",
            "- range: the minimum and the maximum ratio of a round",
            "- arithmetic bound: if the net's FLOPs ran at the speed of a large matrix product, here "
            f"{speed.flops_per_s / 1e12:.3g} TFLOP/s",
            "- memory bound: if each operation's reads and writes ran at the speed of a copy, here "
            f"{speed.bytes_per_s / 1e9:.3g} GB/s; a tensor that stays in a cache is faster",
            "- weights differ by: the largest difference of any weight of the two sides at the end",
            "",
        ]
    )


def describe_conditions(device: torch.device, num_rounds: int) -> str:
    """The device, the versions, and the settings of both sides."""
    dtype = str(resolve_precision("auto", device)).removeprefix("torch.")
    half = "" if dtype == "float32" else " by autocast, weights in float32"
    return (
        f"{describe_device(device)}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"rich {version('rich')}. {num_rounds} rounds after one warm-up round; both sides in one process, "
        f"alternating. {dtype}{half}, channels last, fused SGD with Nesterov momentum, one-cycle schedule, "
        "random uint8 pictures on the device, without augmentation; load average when this was written "
        f"{os.getloadavg()[0]:.1f}."
    )


def describe_device(device: torch.device) -> str:
    """The GPU, or the CPU and torch's number of threads."""
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        return f"One {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return f"No GPU: {torch.get_num_threads()} threads on {os.cpu_count()} cores of {cpu_model()}"


def _cells(line: Line, speed: Speed) -> list[str]:
    case, rounds = line.case, line.rounds
    ours, floors = rounds.images_per_s(OURS), (speed.arithmetic_s(line.work), speed.memory_s(line.work))
    return [
        case.name,
        "×".join(map(str, case.shape)),
        str(case.batch_size),
        f"{ours:,.0f}",
        f"{rounds.images_per_s(BARE):,.0f}",
        f"{rounds.ratio:.3f}",
        f"{min(rounds.ratios):.3f} to {max(rounds.ratios):.3f}",
        *(f"{case.batch_size / seconds:,.0f}" for seconds in floors),
        f"{ours * max(floors) / case.batch_size:.2f}",
        f"{rounds.difference:.2g}",
    ]
