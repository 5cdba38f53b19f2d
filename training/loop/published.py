"""Which net a run publishes, where it is not simply the last: that of its best epoch, or an average.

An epoch is better than another by its held-out accuracy; where that is equal, by its held-out loss.

`--ema` averages the weights exponentially, with a net of its own for averaged weights and running statistics:

    a ← d·a + (1 − d)·w        d = min(decay, (1 + step) / (10 + step))

The decay grows from 0.1, so that what the weights began with is soon forgotten, however short the run. The
average of running statistics is not the statistics of the averaged weights, but near it; `--recalibrate-bn`
measures those.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.loop.facts import EpochFacts


def find_best(history: Sequence[EpochFacts]) -> EpochFacts:
    """The best epoch; of equal ones, the first."""
    return max(history, key=lambda facts: (facts.held_out_accuracy, -facts.held_out_loss))


def is_exhausted(history: Sequence[EpochFacts], patience: int) -> bool:
    """Whether the last `patience` epochs were not better than one before them; never with a patience of 0."""
    return patience > 0 and bool(history) and len(history) - find_best(history).epoch >= patience


class BestNet:
    """A copy of the best net so far, for `--keep best`; a resumed run begins with the published one."""

    def __init__(self, net: nn.Module, history: Sequence[EpochFacts]) -> None:
        self.net = copy.deepcopy(net).requires_grad_(False).eval()
        self.history = list(history)

    def offer(self, net: nn.Module, facts: EpochFacts) -> EpochFacts:
        """Copy `net` if its epoch is the best so far; returns the facts of the best epoch."""
        self.history.append(facts)
        best = find_best(self.history)
        if best is facts:
            self.net.load_state_dict(net.state_dict())
        return best


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
