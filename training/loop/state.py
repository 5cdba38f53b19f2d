"""What a run needs to resume, besides the net that it has published.

In: the live parts of a loop.  Out: a `State`, and the parts as they were.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn

from training.errors import TrainingError
from training.loop.optimize import restore_optimizer
from training.loop.precision import Precision


@dataclass(frozen=True, kw_only=True, eq=False)
class PartialEpoch:
    """An epoch after `num_steps` batches: their `losses` (num_steps,) float64, and the rows answered right.

    `chance` has the random state of each process, from which dropout draws (partial.py).
    """

    num_steps: int
    losses: Tensor
    num_right: int
    chance: list[Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """Momenta, scaler, generators; trained `weights` and their `average`, where others are published.

    `row_losses` are those of EasyRows (easy.py), where easy rows are skipped.
    Within an epoch `partial` says how far it is, and the generators are those that the epoch began with.
    """

    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    weights: dict[str, Tensor]
    generators: dict[str, Tensor]
    average: dict[str, Tensor] = field(default_factory=dict)
    partial: PartialEpoch | None = None
    row_losses: dict[str, Tensor] = field(default_factory=dict)


def capture(
    net: nn.Module,
    published: nn.Module,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    generators: Mapping[str, Generator],
    average: nn.Module | None = None,
) -> State:
    """The state now; its tensors are live, so save it before the next step."""
    return State(
        optimizer=optimizer.state_dict(),
        scaler=precision.scaler.state_dict(),
        weights={} if published is net else dict(net.state_dict()),
        generators={name: generator.get_state() for name, generator in generators.items()},
        average={} if average is None or average is published else dict(average.state_dict()),
    )


def restore(
    state: State,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    generators: Mapping[str, Generator],
    average: nn.Module | None = None,
) -> None:
    """Put everything back; `net`, and the net of an `average`, hold what had been published."""
    try:
        if state.weights:
            net.load_state_dict(state.weights)
        if average is not None and state.average:
            average.load_state_dict(state.average)
        restore_optimizer(optimizer, state.optimizer)
        precision.scaler.load_state_dict(state.scaler)
        for name, generator in generators.items():
            generator.set_state(state.generators[name])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(f"the checkpoint lacks what this run needs to resume: {error!r}") from None
