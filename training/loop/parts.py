"""What every epoch of one fit works with, built once.

In: a net, a split, a config, a group.  Out: `Parts`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from training.augment import Augmentation, choose_augmentation
from training.data import Split
from training.distributed.group import Group
from training.loop.balance import class_weights
from training.loop.batches import count_steps, first_row
from training.loop.chance import STREAMS, seeded_generator
from training.loop.easy import EasyRows
from training.loop.facts import EpochFacts
from training.loop.optimize import build_optimizer, reads_stop
from training.loop.precision import Precision
from training.loop.published import BestNet, WeightAverage
from training.loop.state import State, capture, restore
from training.nets.weights import freeze
from training.settings.config import FitConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What every epoch of one fit works with; `forward` calls `net`, perhaps compiled or wrapped."""

    net: nn.Module
    forward: Callable[[Tensor], Tensor]
    split: Split
    config: FitConfig
    group: Group
    num_steps: int
    optimizer: torch.optim.Optimizer
    precision: Precision
    average: WeightAverage | None
    best: BestNet | None
    class_weights: Tensor | None
    easy: EasyRows | None
    check_every: int
    generators: Mapping[str, Generator]
    augmentation: Augmentation

    @property
    def averaged(self) -> nn.Module | None:
        """The net that holds the average of the weights, if there is one."""
        return None if self.average is None else self.average.net

    @property
    def evaluated(self) -> nn.Module:
        """The net that an epoch's facts are of."""
        return self.net if self.average is None else self.average.net

    @property
    def published(self) -> nn.Module:
        """The net that is saved."""
        return self.evaluated if self.best is None else self.best.net

    def capture(self) -> State:
        """What a resumed run needs besides the published net; live, so save it before the next step."""
        state = capture(
            self.net, self.published, self.optimizer, self.precision, self.generators, self.averaged
        )
        return state if self.easy is None else replace(state, row_losses=self.easy.capture(self.group))

    def restore(self, state: State) -> None:
        """Put everything back; the nets hold what had been published."""
        restore(state, self.net, self.optimizer, self.precision, self.generators, self.averaged)
        if self.easy is not None:
            self.easy.restore(state.row_losses, self.group)


def prepare(
    net: nn.Module,
    split: Split,
    config: FitConfig,
    group: Group,
    history: Sequence[EpochFacts],
    check_every: int,
) -> Parts:
    """Build everything that lives as long as the fit."""
    device, num_rows = split.train_labels.device, len(split.train_labels)
    num_steps = count_steps(split, config)
    freeze(net, config.freeze)
    wrapped = group.wrap(net, first_row(net, split))
    optimizer = build_optimizer(net, config)
    precision = Precision(config.precision, device)
    # Where the device cannot hold a step back by itself, the host has to check every loss before its step.
    must_check = precision.needs_check or not reads_stop(optimizer)
    return Parts(
        net=net,
        forward=torch.compile(wrapped) if config.compile else wrapped,
        split=split,
        config=config,
        group=group,
        num_steps=num_steps,
        # Of the bare net: wrapping and compiling keep its parameters, but under other names.
        optimizer=optimizer,
        precision=precision,
        average=WeightAverage(net, config.ema) if config.ema else None,
        best=BestNet(net, history) if config.keep == "best" else None,
        class_weights=class_weights(config.class_weights, split.train_labels, len(split.facts.labels)),
        easy=EasyRows(num_rows, num_steps * config.batch_size, device) if config.skip_easy else None,
        check_every=1 if must_check else check_every,
        generators={name: seeded_generator(config.seed, name) for name in STREAMS},
        augmentation=choose_augmentation(config.augment, config.data, split.facts),
    )
