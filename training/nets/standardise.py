"""Inputs by each picture's own mean and standard deviation: a part of the net, so served as it was trained.

In: a net.  Out: the same net, which first standardises its rows:

    x ← (x - mean) / max(std, 1 / √n)         over the n numbers of a row; the floor is for plain pictures
"""

import math
from typing import Any

from torch import Tensor, nn


def standardising(net: nn.Module) -> nn.Module:
    """The net itself; a hook and no layer, so that the names of its weights stay what they are."""
    net.register_forward_pre_hook(_standardise)
    return net


def _standardise(net: nn.Module, rows: tuple[Any, ...]) -> tuple[Tensor]:
    (x,) = rows
    centred = x - x.mean((1, 2, 3), keepdim=True)
    deviation = centred.square().mean((1, 2, 3), keepdim=True).sqrt()
    return (centred / deviation.clamp(min=1 / math.sqrt(x[0].numel())),)
