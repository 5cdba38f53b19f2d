"""The optimizer: the learning rate of a step, which parameters decay, and what a step does to the weights.

    t = (step + ½) / num_steps
    one-cycle   peak · t / w                                   t < w = WARM_UP     (Smith & Topin 2018)
                peak · ½ (1 + cos π (t − w) / (1 − w))         after
    cosine      peak · ½ (1 + cos π t)                         (Loshchilov & Hutter 2017)
    step        peak · 0.1 from t = ½ on, · 0.01 from ¾ on     (He et al. 2015)
    constant    peak
    warm-up     · (step + 1) / warmup_steps until that is 1, before any of these but one-cycle

    g ← g · min(1, clip / ‖g‖)       over all parameters at once, where asked for
    sgd       v ← μ·v + g + λ·w      w ← w − rate · (g + λ·w + μ·v)        with Nesterov momentum
                                     w ← w − rate · v                      without
    adam      Kingma & Ba 2015, β₁ = μ, β₂ = 0.999, with λ·w in g;    adamw: λ·w apart from g (2019)
    rmsprop   Hinton 2012, α = 0.99, with momentum μ and λ·w in g

λ is the weight decay on all that has more than one dimension, and 0 on biases and on what BatchNorm learns.
A schedule is a function of the step and keeps no state.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from training.nets.weights import is_in_head
from training.settings.config import FitConfig

WARM_UP = 0.25
BETA_2 = 0.999


def one_cycle(t: float) -> float:
    """A straight climb, then a cosine down to nearly nothing; the share of the peak at 0 < t < 1."""
    return t / WARM_UP if t < WARM_UP else cosine((t - WARM_UP) / (1 - WARM_UP))


def cosine(t: float) -> float:
    """From the peak down to nearly nothing; the share of the peak at 0 < t < 1."""
    return 0.5 * (1 + math.cos(math.pi * t))


def steps_down(t: float) -> float:
    """A tenth after half of the run, a hundredth after three quarters; the share of the peak."""
    return 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01


SHARES: dict[str, Callable[[float], float]] = {
    "one-cycle": one_cycle,
    "cosine": cosine,
    "step": steps_down,
    "constant": lambda t: 1.0,
}


def schedule(
    step: int, num_steps: int, peak: float, name: str = "one-cycle", warmup_steps: float = 0
) -> float:
    """The learning rate of step 0 … num_steps − 1."""
    rate = peak * SHARES[name]((step + 0.5) / num_steps)
    return rate * (step + 1) / warmup_steps if step + 1 < warmup_steps else rate


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The same rate for every group, times its own factor (`--backbone-rate`)."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("rate_factor", 1.0)


def weights_of(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that decay: of Convs, Linears and the like, not biases nor what BatchNorm learns."""
    return [parameter for parameter in trained(net) if parameter.ndim > 1]


def trained(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


def l1_norm(net: nn.Module) -> Tensor:
    """Σ |w| over all weights, ()."""
    return torch.stack([weight.abs().sum() for weight in weights_of(net)]).sum()


def build_optimizer(net: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    """The optimizer of `net`'s parameters; see `reads_stop`."""
    groups = group_parameters(net, config)
    rate, momentum = config.learning_rate, config.momentum
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=rate, betas=(momentum, BETA_2), fused=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(momentum, BETA_2), fused=True)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=rate, momentum=momentum)
    # Without momentum there is nothing to look ahead along, and torch refuses Nesterov's.
    nesterov = config.nesterov and momentum > 0
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov, fused=True)


def group_parameters(net: nn.Module, config: FitConfig) -> list[dict[str, Any]]:
    """Groups with a weight decay each; with a `backbone_rate` twice, the head first: its rate is shown."""
    if config.backbone_rate == 1:
        parts = {1.0: trained(net)}
    else:
        head = is_in_head(net)
        named = [(name, each) for name, each in net.named_parameters() if each.requires_grad]
        parts = {
            1.0: [each for name, each in named if head[name]],
            config.backbone_rate: [each for name, each in named if not head[name]],
        }
    groups: list[dict[str, Any]] = []
    for factor, parameters in parts.items():
        # Only where it is not 1, so that a run without it is saved as ever.
        rate = {} if len(parts) == 1 else {"rate_factor": factor}
        weights = [each for each in parameters if each.ndim > 1]
        others = [each for each in parameters if each.ndim <= 1]
        groups.append({"params": weights, "weight_decay": config.weight_decay, **rate})
        groups.append({"params": others, "weight_decay": 0.0, **rate})
    return groups


def reads_stop(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step reads `stop` on the device: only fused ones do, and torch has no fused RMSprop."""
    return bool(optimizer.defaults.get("fused"))


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, object]) -> None:
    """Take up saved momenta, each in its parameter's layout: a fused step reads both in memory order."""
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)
