"""In which layout a net is trained: channels last, but where that would destroy memory."""

import pytest
import torch
from torch import nn

from training.loop.device import place

CPU = torch.device("cpu")
SAFE = {
    "wide": nn.Conv2d(16, 32, 1, stride=2),
    "3×3": nn.Conv2d(5, 10, 3, stride=2, padding=1),
    "not strided": nn.Conv2d(5, 10, 1),
}


@pytest.mark.parametrize("conv", SAFE.values(), ids=list(SAFE))
def test_channels_last_is_the_rule(conv: nn.Conv2d) -> None:
    (weight, *_) = place(nn.Sequential(nn.Conv2d(3, conv.in_channels, 3), conv), CPU).parameters()
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (3, 1), (5, 1), (15, 1), (32, 4)])
def test_a_net_with_a_narrow_strided_pointwise_conv_learns_right_gradients(
    channels: int, groups: int
) -> None:
    """Where it was channels last, ten of these steps ended the process on CPUs with AVX2 alone."""
    torch.manual_seed(0)
    net = place(
        nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.Conv2d(channels, 2 * channels, 1, stride=2, groups=groups),
        ),
        CPU,
    )
    rows = torch.randn(50, 3, 28, 28)
    for _ in range(10):
        net.zero_grad()
        net(rows).square().mean().backward()
    found = [parameter.grad.double() for parameter in net.parameters() if parameter.grad is not None]
    exact = net.double()
    exact.zero_grad()
    exact(rows.double()).square().mean().backward()
    for gradient, parameter in zip(found, exact.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.allclose(gradient, parameter.grad, rtol=1e-4, atol=1e-6)
