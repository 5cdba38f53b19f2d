"""Random numbers for a net or a graph, the same for the same net.

    mean ~ N(0, 0.1)    σ² ~ U(0.5, 1.5)    β ~ N(0, 0.1)    |γ| ~ U(0.6, 1.4), of both signs or positive

A constant parameter (bias 0, layer scale 1e-6) would hide what a fold does to its channels: zeros become
N(0, 0.02), others U(0.5, 1.5).
"""

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from export.graph.edit import batchnorms, constant

BatchNorm = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def randomise_net(net: nn.Module, gammas: str) -> None:
    """Draw the net's numbers in place; convolutions and the like keep theirs."""
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        if norm.running_mean is None or norm.running_var is None:
            continue
        norm.running_mean.normal_(0, 0.1, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
        if norm.affine:
            signs = torch.randn(norm.num_features, generator=generator).sign()
            norm.weight.uniform_(0.6, 1.4, generator=generator).mul_(signs if gammas == "both" else 1)
            norm.bias.normal_(0, 0.1, generator=generator)
    own = {id(parameter) for norm in norms for parameter in norm.parameters()}
    for parameter in net.parameters():
        if id(parameter) not in own and parameter.numel() > 1 and parameter.min() == parameter.max():
            if parameter.flatten()[0] == 0:
                parameter.normal_(0, 0.02, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)


def randomise_graph(model: ir.Model, gammas: str) -> ir.Model:
    """A copy with random numbers; weights with two or more axes are drawn as well (He et al. 2015)."""
    model = model.clone()
    random = np.random.default_rng(0)
    drawn: set[str] = set()
    for node in batchnorms(model):
        values = [value for value in node.inputs[1:5] if value is not None]
        size = int(np.prod([int(str(axis)) for axis in values[0].shape or ()]))
        signs = np.where(random.random(size) < 0.5, -1, 1) if gammas == "both" else 1
        numbers = (
            random.uniform(0.6, 1.4, size) * signs,
            random.normal(0, 0.1, size),
            random.normal(0, 0.1, size),
            random.uniform(0.5, 1.5, size),
        )
        for value, array in zip(values, numbers, strict=True):
            drawn.add(_set(value, array))
    for name, value in model.graph.initializers.items():
        before = constant(value)
        if name in drawn or before is None or before.dtype != np.float32 or before.size < 2:
            continue
        if before.squeeze().ndim > 1:
            _set(value, random.normal(0, np.sqrt(2 / np.prod(before.shape[1:])), before.shape))
        elif before.min() == before.max():
            draw = random.normal(0, 0.02, before.shape), random.uniform(0.5, 1.5, before.shape)
            _set(value, draw[0] if before.flat[0] == 0 else draw[1])
    return model


def _set(value: ir.Value, array: np.ndarray) -> str:
    value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
    return str(value.name)
