"""Two ResNets with random weights, for `python -m export bundle benchmarks.serving.resnets:resnet20`.

In: nothing; everything is drawn from seed 0.  Out: nets in eval mode, rows (N, 3, S, S) to logits.

    resnet20   rows of 32×32, 10 classes
    resnet18   rows of 224×224, 1000 classes

Every BatchNorm has the statistics of its input, a random γ and β, and the last layer has large weights, so
that answers differ from row to row.
"""

from collections.abc import Callable

import torch
from torch import nn

from benchmarks import resnets


def resnet20() -> nn.Module:
    """The small one."""
    return _drawn(lambda: resnets.resnet20(32, 10), 32)


def resnet18() -> nn.Module:
    """The usual one."""
    return _drawn(lambda: resnets.resnet18(224, 1000), 224)


def _drawn(build: Callable[[], nn.Module], side: int) -> nn.Module:
    torch.manual_seed(0)
    net = build()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # running statistics become the plain average over all batches
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 8 / module.in_features**0.5)
    with torch.no_grad():
        net.train()(torch.randn(16, 3, side, side))
    return net.eval()
