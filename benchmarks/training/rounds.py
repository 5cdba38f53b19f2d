"""Both sides alternate: an epoch of one, an epoch of the other, so that a busy machine affects both.

In: a case and a device.  Out: seconds of each side in each round, and the final difference of their weights.
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

TARGET_RATIO = 0.97
OURS, BARE = "ours", "bare"


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Seconds for `num_images`, of each side in each round; the first round, a warm-up, is left out.

    `difference` is the largest difference of any weight between both sides after the last round.
    """

    num_images: int
    seconds: list[dict[str, float]]
    difference: float

    @property
    def ratios(self) -> list[float]:
        """Images/s of ours ÷ the bare loop's, in each round."""
        return [took[BARE] / took[OURS] for took in self.seconds]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def is_reached(self) -> bool:
        """Whether the ratio reaches TARGET_RATIO."""
        return self.ratio >= TARGET_RATIO

    def images_per_s(self, side: str) -> float:
        """The median images/s of a side."""
        return self.num_images / statistics.median(took[side] for took in self.seconds)


def measure(
    case: Case,
    device: torch.device,
    num_rounds: int,
    *,
    planted_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    on_round: Callable[[int], None] = lambda index: None,
) -> Rounds:
    """Run one warm-up round, then `num_rounds`; `on_round` gets the index of each finished round."""
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
        on_round(index)
    return Rounds(
        num_images=case.batch_size * case.num_steps,
        seconds=seconds[1:],
        difference=largest_difference(our_net, bare_net),
    )


def take_turns(sides: dict[str, Iterator[float]], num_rounds: int) -> Iterator[dict[str, float]]:
    """Yield the seconds of each side, round by round; the order alternates."""
    for index in range(num_rounds):
        names = list(sides) if index % 2 else list(reversed(sides))
        yield {name: next(sides[name]) for name in names}


def largest_difference(net: nn.Module, other: nn.Module) -> float:
    """The largest difference of any weight or running statistic."""
    pairs = zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    return float(max((one.double() - two.double()).abs().max() for one, two in pairs))
