"""The BatchNorms of a net: keep γ positive, and re-estimate statistics for the final weights.

In: a net, and batches of rows.  Out: the same net, changed in place.

    γ ← max(γ, SMALLEST_GAMMA)                                after each step of the optimizer

    μ = Σ x / n        σ² = Σ (x − μ)² / (n − 1)              over all that a BatchNorm reads in N batches

While those batches run, each BatchNorm normalises by its batch, as in training, and all else is in eval mode
(Wu & Johnson 2021, "precise BatchNorm"). A running average forgets: by default its memory is ten batches
long, taken under weights that have moved on since. Batches are pooled in float64 (Chan et al. 1979):

    d = m_batch − m        m ← m + d·k/(n + k)        S ← S + S_batch + d²·n·k/(n + k)        n ← n + k
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SMALLEST_GAMMA = 2.0**-7


def find_batchnorms(net: nn.Module) -> list[_BatchNorm]:
    """All BatchNorms that keep running statistics, subclasses too."""
    return [
        module
        for module in net.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def keep_gamma_positive(net: nn.Module) -> None:
    """Lift every γ below SMALLEST_GAMMA up to it."""
    with torch.no_grad():
        for norm in find_batchnorms(net):
            if norm.affine and norm.weight.requires_grad:
                norm.weight.clamp_(min=SMALLEST_GAMMA)


class Moments:
    """Count, mean and sum of squared deviations of all the batches so far, per channel."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Pool one batch, (N, C, …)."""
        by_channel = x.detach().double().transpose(0, 1).flatten(1)
        count, mean = by_channel.shape[1], by_channel.mean(1)
        squares = (by_channel - mean[:, None]).square().sum(1)
        total, difference = self.count + count, mean - self.mean
        self.mean = self.mean + difference * (count / total)
        self.squares = self.squares + squares + difference.square() * (self.count * count / total)
        self.count = total

    def variance(self) -> Tensor:
        """Unbiased, as a running variance is."""
        return self.squares / (self.count - 1)


@contextmanager
def normalizing_by_batch(net: nn.Module) -> Iterator[dict[_BatchNorm, Moments]]:
    """Within, BatchNorms normalise by their batch, all else is in eval mode; yields moments of their inputs.

    Afterwards the net is in eval mode, with its running statistics as they were before.
    """
    norms = find_batchnorms(net)
    before = {norm: [buffer.clone() for buffer in norm.buffers()] for norm in norms}
    moments = {norm: Moments() for norm in norms}

    def listen(norm: nn.Module, arguments: tuple[Any, ...]) -> None:
        moments[norm].add(arguments[0])  # type: ignore[index]

    handles = [norm.register_forward_pre_hook(listen) for norm in norms]
    net.eval()
    try:
        for norm in norms:
            norm.train()
        with torch.no_grad():
            yield moments
    finally:
        for handle in handles:
            handle.remove()
        for norm, buffers in before.items():
            for buffer, value in zip(norm.buffers(), buffers, strict=True):
                buffer.copy_(value)
        net.eval()


def take_statistics(moments: Mapping[_BatchNorm, Moments]) -> None:
    """Make what was read the running statistics; a BatchNorm that read nothing keeps what it has."""
    for norm, seen in moments.items():
        if seen.count:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(seen.mean)
            norm.running_var.copy_(seen.variance())


def recalibrate(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Re-estimate every BatchNorm's running statistics from `batches`; leaves the net in eval mode."""
    with normalizing_by_batch(net) as moments:
        for rows in batches:
            net(rows)
    take_statistics(moments)
