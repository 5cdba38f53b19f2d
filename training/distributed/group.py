"""The processes that fit one net together: who does what share of a batch, and what they tell each other.

In: a `Launch`.  Out: a `Group`, which is one with a voice: the same loop serves one process and many. Of a
batch of N rows process r takes every size-th, k_r of them, and DistributedDataParallel averages gradients:

    loss_r = L_r · k_r · size / N      L = Σ L_r k_r / N = Σ loss_r / size      g = Σ g_r / size

So the net moves as in one process with the whole batch, up to rounding, whatever the shares' sizes. Order,
augmentation and the weights to begin with every process draws for itself, from the one seed. Only the first
process reads and writes the run's folder: the others need not see that disk.
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

from training.batchnorm.sync import synchronised
from training.distributed.launch import GroupError, Launch, LostError
from training.distributed.rendezvous import open_store

NOTHING = -1
LEAVE_WITHIN = timedelta(minutes=5)

T = TypeVar("T")
S = TypeVar("S", Tensor, Sequence[Any])


@dataclass(frozen=True, kw_only=True)
class Group(Launch):
    """A process and its way to the others; alone it needs nobody and does nothing."""

    def share(self, whole: S) -> S:
        """This process's part of a batch's rows, or of anything in order."""
        return whole[self.rank :: self.size]

    def own_stream(self, name: str) -> str:
        """The name of a stream of chance that is another in each process; the first one's is as if alone."""
        return name if self.is_first else f"{name}, process {self.rank}"

    def weigh(self, loss: Tensor, num_own: int, num_rows: int) -> Tensor:
        """Mean loss of `num_own` rows → what to run backward from, in a batch of `num_rows`."""
        scale = num_own * self.size / num_rows
        return loss if scale == 1 else loss * scale

    def mean(self, value: Tensor) -> Tensor:
        """The mean over processes of a tensor, in each of them; of `weigh`ed losses, the batch's."""
        return value if self.size == 1 else self.total(value) / self.size

    def total(self, value: Tensor) -> Tensor:
        """The sum over processes of a tensor, in each of them."""
        if self.size == 1:
            return value
        value = value.clone()
        distributed.all_reduce(value)
        return value

    def together(self, net: nn.Module, batches: Iterable[T]) -> Iterator[T]:
        """Pass `batches` on; until the last one is done, BatchNorms normalise by every process's share."""
        with nullcontext() if self.size == 1 else synchronised(net):
            yield from batches

    def wrap(self, net: nn.Module, row: Tensor) -> nn.Module:
        """`net` with gradients averaged over the processes; one `row` shows which parameters it uses."""
        if self.size == 1:
            return net
        with _in_eval_mode(net):
            wrapped = DistributedDataParallel(
                net,
                forward_sync_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=_leaves_some_unused(net, row),
            )
            # Gradients travel in buckets, laid out anew behind the first backward pass, and how more than two
            # processes add depends on that. So this pass comes before a run begins, and before one goes on.
            wrapped(row).sum().backward()
            net.zero_grad()
        return wrapped

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """One process of each machine goes through the body first, so that the others find what it leaves."""
        if self.local_rank > 0:
            self.meet()
        yield
        if self.local_rank == 0:
            self.meet()

    def from_first(self, make: Callable[[], bytes | None]) -> bytes | None:
        """What `make` gives to the first process, in every process."""
        content = make() if self.is_first else None
        if self.size == 1:
            return content
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
        """Refuse to go on in a process whose facts are not the first one's."""
        own = json.dumps(facts, default=str)
        first = self.from_first(own.encode)
        assert first is not None
        for (key, found), expected in zip(json.loads(own).items(), json.loads(first).values(), strict=True):
            if found != expected:
                raise GroupError(
                    f"{key} is {found} here and {expected} in the first process: "
                    "start all with the same flags and data"
                )

    def meet(self) -> None:
        """Wait for all others."""
        if self.size > 1:
            distributed.all_reduce(torch.zeros(()))


ALONE = Group()


@contextmanager
def joined(launch: Launch, device: torch.device) -> Iterator[Group]:
    """The group of all processes; within it, to find another end of a message gone is a `LostError`."""
    if launch.size == 1:
        yield Group(**asdict(launch))
        return
    try:
        if device.type == "cuda":
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
        _part(launch, store)
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            raise
        raise LostError("another process of this run ended; its own last words say why") from error
    distributed.destroy_process_group()  # not behind an error: it would wait for the others


def _part(launch: Launch, store: TCPStore) -> None:
    """The first process goes last: a connection that it closes may take with it what others still read."""
    if launch.is_first:
        store.wait([f"{rank} has ended" for rank in range(1, launch.size)], LEAVE_WITHIN)
    else:
        store.set(f"{launch.rank} has ended", "")


def _leaves_some_unused(net: nn.Module, row: Tensor) -> bool:
    """Whether the answer for a row depends on some parameters only."""
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(net(row).sum(), parameters, allow_unused=True)
    return any(gradient is None for gradient in gradients)


@contextmanager
def _in_eval_mode(net: nn.Module) -> Iterator[None]:
    """Within it nothing is drawn, and no BatchNorm's statistics move."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
