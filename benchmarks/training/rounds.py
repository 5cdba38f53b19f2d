"""Both sides take turns: an epoch of one, an epoch of the other, so that a busy machine is busy for both.

In: a case and a device.  Out: seconds of each side in each round, and how far apart their weights ended.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.training.bare import bare_epochs
from benchmarks.training.cases import Case
from benchmarks.training.ours import our_epochs

BAR = 0.97
OURS, BARE = "ours", "bare"


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Seconds for `num_images`, of each side in each round; the first round is left out, it warms up.

    `difference` is the largest of any weight between both sides behind the last round.
    """

    num_images: int
    seconds: list[dict[str, float]]
    difference: float

    @property
    def ratios(self) -> list[float]:
        """Images/s of ours beside the bare loop's, in each round."""
        return [took[BARE] / took[OURS] for took in self.seconds]

    @property
    def ratio(self) -> float:
        """Their median."""
        return statistics.median(self.ratios)

    @property
    def is_reached(self) -> bool:
        """Whether ours is as fast as it should be."""
        return self.ratio >= BAR

    def images_per_s(self, side: str) -> float:
        """The median of a side."""
        return self.num_images / statistics.median(took[side] for took in self.seconds)


def measure(
    case: Case,
    device: torch.device,
    num_rounds: int,
    *,
    planted_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    tell: Callable[[int], None] = lambda index: None,
) -> Rounds:
    """One round to warm up, then `num_rounds`; `tell` hears of each round that is done."""
    split, config = case.make_split(device), case.config(num_rounds + 1)
    our_net = case.build_net(device)
    bare_net = copy.deepcopy(our_net)
    sides = {
        OURS: our_epochs(our_net, split, config, clock, planted_s=planted_s, sleep=sleep),
        BARE: bare_epochs(bare_net, split, config, clock),
    }
    seconds = []
    for index, took in enumerate(take_turns(sides, num_rounds + 1)):
        seconds.append(took)
        tell(index)
    return Rounds(
        num_images=case.batch_size * case.num_steps,
        seconds=seconds[1:],
        difference=largest_difference(our_net, bare_net),
    )


def take_turns(sides: dict[str, Iterator[float]], num_rounds: int) -> Iterator[dict[str, float]]:
    """What each side took, round by round; who begins changes."""
    for index in range(num_rounds):
        names = list(sides) if index % 2 else list(reversed(sides))
        yield {name: next(sides[name]) for name in names}


def largest_difference(net: nn.Module, other: nn.Module) -> float:
    """Of any weight or running statistic."""
    pairs = zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    return float(max((one.double() - two.double()).abs().max() for one, two in pairs))
