"""The best epoch so far: when a run that no longer improves ends, and which net it publishes.

An epoch is better than another by its held-out accuracy; where that is equal, by its held-out loss.
"""

import copy
from collections.abc import Sequence

from torch import nn

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
