"""Nets of `training`, by name, whose BatchNorm statistics are those of the rows that they are tested with.

net = lively_net("vgg", rows)     rows: (n, C, H, W), float32
"""

import numpy as np
import torch
from torch import nn

from training import nets


def lively_net(name: str, rows: np.ndarray, **settings: object) -> nn.Module:
    """Random weights with γ and β of their own; settings are the net's."""
    torch.manual_seed(0)
    net = nets.build_net(name, {"input_shape": rows.shape[1:], "num_classes": 5, **settings})
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        net.train()(torch.from_numpy(rows))
    return net.eval()
