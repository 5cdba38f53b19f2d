"""The optimizer: the learning rate of a step, which parameters decay, and what a step does to the weights.

    t = (step + ½) / num_steps
    one-cycle   peak · t / w                                   t < w = WARM_UP     (Smith & Topin 2018)
                peak · ½ (1 + cos π (t − w) / (1 − w))         after
    cosine      peak · ½ (1 + cos π t)                         (Loshchilov & Hutter 2017)

    g ← g · min(1, clip / ‖g‖)       over all parameters at once, where asked for
    v ← μ·v + g + λ·w        w ← w − rate · (g + λ·w + μ·v)        SGD with Nesterov momentum

λ is the weight decay on all that has more than one dimension, and 0 on biases and on what BatchNorm learns.
A schedule is a function of the step and keeps no state.
"""

import math
from collections.abc import Callable

import torch
from torch import nn

from training.settings.config import FitConfig

WARM_UP = 0.25


def one_cycle(t: float) -> float:
    """A straight climb, then a cosine down to nearly nothing; the share of the peak at 0 < t < 1."""
    return t / WARM_UP if t < WARM_UP else cosine((t - WARM_UP) / (1 - WARM_UP))


def cosine(t: float) -> float:
    """From the peak down to nearly nothing; the share of the peak at 0 < t < 1."""
    return 0.5 * (1 + math.cos(math.pi * t))


SHARES: dict[str, Callable[[float], float]] = {"one-cycle": one_cycle, "cosine": cosine}


def schedule(step: int, num_steps: int, peak: float, name: str = "one-cycle") -> float:
    """The learning rate of step 0 … num_steps − 1."""
    return peak * SHARES[name]((step + 0.5) / num_steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The same rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def build_optimizer(net: nn.Module, config: FitConfig) -> torch.optim.SGD:
    """SGD over all of `net`'s parameters; only a fused step reads the `stop` flag on the device."""
    weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=config.learning_rate, momentum=config.momentum, nesterov=True, fused=True
    )


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, object]) -> None:
    """Take up saved momenta, each in its parameter's layout: a fused step reads both in memory order."""
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)
