"""What may be varied in every net of ours, after it is built: activation, dropout, and its BatchNorms.

In: a net and the settings that all nets share.  Out: the same net, changed in place.

    activation      relu, leaky_relu, tanh, sigmoid, silu in the place of every activation
    bn=after        Conv → bias → activation → BN         in the place of Conv → BN → activation
    bn=none         Conv → bias → activation              the bias is what is left of a BN without normalising
    dropout         before the last layer
    eps, bn_momentum                                      of every BatchNorm; 0 leaves the net's own
    per_picture     x ← (x - mean) / max(std, 1 / √n)     each row by its own n numbers, in the net and so in
                                                          what is served; the floor is for plain pictures
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from training.nets.settings import NetSettings
from training.nets.weights import find_head

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.01),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}
BUILT_WITH = (nn.ReLU, nn.ReLU6)
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
SMALL_GAMMA, GAMMA_SPREAD = 0.1, 0.02


class Shift(nn.Module):
    """x + bias, per channel of (N, C, …)."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Of x's shape."""
        return x + self.bias.view(1, -1, *[1] * (x.ndim - 2))


def vary(net: nn.Module, settings: NetSettings) -> None:
    """Change `net` as `settings` say; raises ValueError where it has no place for that."""
    if settings.bn == "after":
        move_batchnorms_after(net)
    elif settings.bn == "none":
        remove_batchnorms(net)
    if settings.activation:
        replace_modules(net, BUILT_WITH, lambda module: ACTIVATIONS[settings.activation]())
    for module in net.modules():
        if isinstance(module, BATCHNORMS):
            module.eps = settings.eps or module.eps
            module.momentum = settings.bn_momentum or module.momentum
    if settings.dropout:
        drop_before_last(net, settings.dropout)


def start_gamma(net: nn.Module, how: str, generator: Generator) -> None:
    """Set the initial γ of every BatchNorm: 1, 0, small (0.1), or normal (N(1, 0.02²))."""
    for module in net.modules():
        if not isinstance(module, BATCHNORMS):
            continue
        if how == "normal":
            nn.init.normal_(module.weight, 1.0, GAMMA_SPREAD, generator=generator)
        else:
            nn.init.constant_(module.weight, SMALL_GAMMA if how == "small" else float(how))


def remove_batchnorms(net: nn.Module) -> None:
    """Put a Shift in the place of every BatchNorm."""
    replace_modules(net, BATCHNORMS, _shift_like)


def _shift_like(norm: nn.Module) -> Shift:
    assert isinstance(norm, BATCHNORMS)
    return Shift(norm.num_features)


def replace_modules(
    net: nn.Module, kinds: tuple[type[nn.Module], ...], make: Callable[[nn.Module], nn.Module]
) -> None:
    """Put what `make` returns in the place of every module of these kinds."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kinds):
                setattr(parent, name, make(child))


def move_batchnorms_after(net: nn.Module) -> None:
    """Exchange every BatchNorm with the activation after it; each must stand before one in a Sequential."""
    num_moved, num_norms = 0, sum(isinstance(module, BATCHNORMS) for module in net.modules())
    for layers in list(net.modules()):
        if not isinstance(layers, nn.Sequential):
            continue
        for index in range(len(layers) - 1):
            norm, activation = layers[index], layers[index + 1]
            if isinstance(norm, BATCHNORMS) and isinstance(activation, BUILT_WITH):
                # The layer before has no bias, as the BatchNorm had one; now the activation needs it.
                layers[index] = nn.Sequential(Shift(norm.num_features), activation)
                layers[index + 1] = norm
                num_moved += 1
    if not num_norms or num_moved < num_norms:
        raise ValueError(
            f"bn=after needs an activation after every BatchNorm, found {num_moved} of {num_norms}"
        )


def drop_before_last(net: nn.Module, share: float) -> None:
    """Put a Dropout of `share` before the last Linear or Conv."""
    parent_name, _, name = find_head(net).rpartition(".")
    parent = net.get_submodule(parent_name)
    setattr(parent, name, nn.Sequential(nn.Dropout(share), getattr(parent, name)))


def standardising(net: nn.Module) -> nn.Module:
    """The net itself; a hook and no layer, so that the names of its weights stay what they are."""
    net.register_forward_pre_hook(_standardise)
    return net


def _standardise(net: nn.Module, rows: tuple[Any, ...]) -> tuple[Tensor]:
    (x,) = rows
    centred = x - x.mean((1, 2, 3), keepdim=True)
    deviation = centred.square().mean((1, 2, 3), keepdim=True).sqrt()
    return (centred / deviation.clamp(min=1 / math.sqrt(x[0].numel())),)
