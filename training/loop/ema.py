"""An exponential moving average of the weights: what is evaluated and published, where `--ema` asks for it.

In: the net after each step.  Out: a net of its own, with averaged weights and averaged running statistics.

    a ← d·a + (1 − d)·w        d = min(decay, (1 + step) / (10 + step))

The decay grows from 0.1, so that what the weights began with is soon forgotten, however short the run. The
average of running statistics is not the statistics of the averaged weights, but near it; `--recalibrate-bn`
measures those.
"""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The average so far; `net` has the structure and layout of the net that it began from."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Take in the weights of `net` after `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(_real(self.net), _real(net), None)
        for into, value in zip(self.net.buffers(), net.buffers(), strict=True):
            if not value.is_floating_point():
                into.copy_(value)


def _real(net: nn.Module) -> list[Tensor]:
    """Parameters and running statistics; not the counts of batches."""
    return [*net.parameters(), *(buffer for buffer in net.buffers() if buffer.is_floating_point())]
