"""Lower bounds for the time of a step, from two speeds of the device and two counts of the work.

In: a case, a device.  Out: seconds.

    arithmetic   FLOPs of a step / FLOPs per second of a large matrix product
    memory       bytes of a step / bytes per second of a large copy

FLOPs are those of convolutions and matrix products, forward and backward. Bytes are what every operation of
a step reads and writes, each tensor once: less is possible only if operations are fused, or a tensor stays
in a cache. Views cost nothing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training.bare import bare_epochs, synchronize
from benchmarks.training.cases import Case

TRIES = 10


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of one step."""

    flops: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speed of a device."""

    flops_per_s: float
    bytes_per_s: float

    def arithmetic_s(self, work: Work) -> float:
        """The minimum time for the FLOPs, in seconds."""
        return work.flops / self.flops_per_s

    def memory_s(self, work: Work) -> float:
        """The minimum time for the bytes, in seconds."""
        return work.num_bytes / self.bytes_per_s


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that operations read and write inside the `with` block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        if not func.is_view and func not in FREE:
            read = _tensors((args, kwargs))
            changed = [
                tensor
                for argument, value in zip(func._schema.arguments, args, strict=False)
                if argument.alias_info is not None and argument.alias_info.is_write
                for tensor in _tensors(value)
            ]
            # An in-place operation also returns what it changed.
            written = {id(tensor): tensor for tensor in (*_tensors(answer), *changed)}
            self.num_bytes += sum(tensor.nbytes for tensor in (*read, *written.values()))
        return answer


FREE = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.detach.default,
    torch.ops.aten._unsafe_view.default,
}


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def count_work(case: Case, device: torch.device) -> Work:
    """Count the work of one step of the bare loop."""
    case = replace(case, num_steps=1)
    step = bare_epochs(case.build_net(device), case.make_split(device), case.config(1), time.perf_counter)
    with FlopCounterMode(display=False) as counter, Traffic() as traffic:
        next(step)
    return Work(flops=counter.get_total_flops(), num_bytes=traffic.num_bytes)


def measure_speed(device: torch.device, dtype: torch.dtype) -> Speed:
    """Measure a square matrix product in `dtype` and a copy larger than any cache; the best of TRIES."""
    side, copied = (8192, 2**30) if device.type == "cuda" else (2048, 2**28)
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.ones(copied, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return Speed(
        flops_per_s=2 * side**3 / _fastest(lambda: torch.mm(one, other), device),
        bytes_per_s=2 * copied / _fastest(lambda: target.copy_(source), device),
    )


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    best = float("inf")
    for _ in range(TRIES + 1):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best
