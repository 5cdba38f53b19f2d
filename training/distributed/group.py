"""The processes that fit one net together: each one's share of a batch, and the messages between them.

In: a `Launch`.  Out: a `Group`, a launch that can communicate: the same loop serves one process and many. Of
a batch of N rows process r takes every size-th, k_r of them, and DistributedDataParallel averages gradients:

    loss_r = L_r · k_r · size / N      L = Σ L_r k_r / N = Σ loss_r / size      g = Σ g_r / size

So the net moves as in one process with the whole batch, up to rounding, whatever the shares' sizes. Every
process draws order, augmentation and initial weights for itself, from the one seed. Only the first process
reads and writes the run's folder: the others need not see that disk.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from training.batchnorm import sync
from training.distributed.launch import GroupError, Launch, LostError
from training.distributed.rendezvous import open_store

NOTHING = -1
LEAVE_WITHIN = timedelta(minutes=5)

T = TypeVar("T")
S = TypeVar("S", Tensor, Sequence[Any])


@dataclass(frozen=True, kw_only=True)
class Group(Launch):
    """This process and its way to the others; for a single process every method is a no-op."""

    def share(self, whole: S) -> S:
        """This process's part of a batch's rows (N, …) → (k_r, …), or of any sequence."""
        return whole[self.rank :: self.size]

    def own_stream(self, name: str) -> str:
        """A random stream that differs in each process; the first one's is that of a process alone."""
        return name if self.is_first else f"{name}, process {self.rank}"

    def weigh(self, loss: Tensor, num_own: int, num_rows: int) -> Tensor:
        """A mean loss () of `num_own` rows, scaled so that averaged gradients are those of all `num_rows`."""
        scale = num_own * self.size / num_rows
        return loss if scale == 1 else loss * scale

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over processes, in each of them; of `weigh`ed losses, the batch's loss."""
        return value if self.size == 1 else self.total(value) / self.size

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over processes, in each of them; `value` itself is not changed."""
        if self.size == 1:
            return value
        value = value.clone()
        distributed.all_reduce(value)
        return value

    def gather(self, value: Tensor) -> list[Tensor]:
        """The `value` of every process by its rank, in each of them; all of one shape and type."""
        if self.size == 1:
            return [value]
        values = [torch.empty_like(value) for _ in range(self.size)]
        distributed.all_gather(values, value)
        return values

    def synchronised(self, net: nn.Module, batches: Iterable[T]) -> Iterator[T]:
        """Pass `batches` on; meanwhile BatchNorms use the statistics of all processes' shares."""
        with nullcontext() if self.size == 1 else sync.synchronised(net):
            yield from batches

    def wrap(self, net: nn.Module, row: Tensor) -> nn.Module:
        """`net`, its gradients averaged over processes; a `row` (1, C, H, W) shows which of them it uses."""
        if self.size == 1:
            return net
        with _in_eval_mode(net):
            wrapped = DistributedDataParallel(
                net,
                # Synchronised BatchNorms have the same buffers in all processes already.
                forward_sync_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=_leaves_some_unused(net, row),
            )
            # Gradients travel in buckets. DDP lays them out again after the first backward pass, and the
            # order in which more than two processes add depends on the layout. With this extra pass a new
            # run and a resumed one both start in the final layout, and so come to the same bits.
            wrapped(row).sum().backward()
            net.zero_grad()
        return wrapped

    @contextmanager
    def first_per_machine(self) -> Iterator[None]:
        """One process of each machine runs the body first, and the others find the files that it made."""
        if self.local_rank > 0:
            self.barrier()
        yield
        if self.local_rank == 0:
            self.barrier()

    def broadcast(self, make: Callable[[], bytes | None]) -> bytes | None:
        """What `make` returns in the first process, in every process; only that one calls it."""
        content = make() if self.is_first else None
        if self.size == 1:
            return content
        # The receivers have to know how much to allocate, so the length goes first; NOTHING stands for None.
        length = torch.tensor(NOTHING if content is None else len(content))
        distributed.broadcast(length, 0)
        if length == NOTHING:
            return None
        buffer = torch.empty(int(length), dtype=torch.uint8)
        if content is not None:
            buffer.numpy()[:] = np.frombuffer(content, dtype=np.uint8)
        distributed.broadcast(buffer, 0)
        return buffer.numpy().tobytes()

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Raise GroupError in a process whose facts differ from those of the first process."""
        own = json.dumps(facts, default=str)
        first = self.broadcast(own.encode)
        assert first is not None
        for (key, found), expected in zip(json.loads(own).items(), json.loads(first).values(), strict=True):
            if found != expected:
                raise GroupError(
                    f"{key} is {found} here and {expected} in the first process: "
                    "start all with the same flags and data"
                )

    def barrier(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            distributed.all_reduce(torch.zeros(()))


ALONE = Group()


@contextmanager
def joined(launch: Launch, device: torch.device) -> Iterator[Group]:
    """The group of all processes, of `launch.size`; raises GroupError if they cannot be joined.

    Within it, a message to or from a process that has ended raises LostError.
    """
    if launch.size == 1:
        yield Group(**asdict(launch))
        return
    try:
        if device.type == "cuda":
            # Before NCCL starts: it would take GPU 0 in every process.
            torch.cuda.set_device(device)
        store = open_store(launch)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=launch.rank,
            world_size=launch.size,
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise GroupError(f"cannot join the other processes: {' '.join(str(error).split())}") from None
    group = Group(**asdict(launch))
    try:
        yield group
        _leave_in_order(launch, store)
    except RuntimeError as error:
        # gloo raises a plain RuntimeError, so it is known by its text alone.
        if not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            raise
        raise LostError("another process of this run ended; its own message says why") from error
    distributed.destroy_process_group()  # not after an error: it would wait for the others


def _leave_in_order(launch: Launch, store: TCPStore) -> None:
    """The first process ends last: it serves the store, and closing it fails the reads of the others."""
    if launch.is_first:
        store.wait([f"{rank} has ended" for rank in range(1, launch.size)], LEAVE_WITHIN)
    else:
        store.set(f"{launch.rank} has ended", "")


def _leaves_some_unused(net: nn.Module, row: Tensor) -> bool:
    """Whether the net's output for a row does not depend on some parameter that trains."""
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(net(row).sum(), parameters, allow_unused=True)
    return any(gradient is None for gradient in gradients)


@contextmanager
def _in_eval_mode(net: nn.Module) -> Iterator[None]:
    """Within, dropout draws nothing and no BatchNorm's statistics move; each module's mode is restored."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
