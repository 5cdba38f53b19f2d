"""Nets that the tests fold, and BatchNorms whose every number matters."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def lively(net: nn.Module, row_shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    """Statistics of real activations, γ of both signs, β off zero: such BatchNorms would be missed."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.momentum = None  # a plain average over what comes
        if norm.affine:
            signs = torch.randn(norm.num_features, generator=generator).sign()
            with torch.no_grad():
                norm.weight.uniform_(0.5, 1.5, generator=generator).mul_(signs)
                norm.bias.normal_(0, 0.3, generator=generator)
    net.train()
    with torch.no_grad():
        net(torch.randn(64, *row_shape, generator=generator) * 2)
    return net.eval()


def seeded(build: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return lively(build(), (1, 8, 8))


class Everything(nn.Module):
    """One of each linear op that a BatchNorm can be folded into."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.conv_bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(8, affine=False)
        self.up = nn.ConvTranspose2d(8, 12, 2, stride=2, groups=2)
        self.up_bn = nn.BatchNorm2d(12)
        self.hidden = nn.Linear(12, 10, bias=False)
        self.hidden_bn = nn.BatchNorm1d(10)
        self.head = nn.Linear(10, 5)
        self.head_bn = nn.BatchNorm1d(5)

    def forward(self, pixels_nchw: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv_bn(self.conv(pixels_nchw)))
        x = torch.relu(self.depthwise_bn(self.depthwise(x)))
        x = torch.relu(self.up_bn(self.up(x))).mean((2, 3))
        return self.head_bn(self.head(torch.relu(self.hidden_bn(self.hidden(x)))))


class FirstAndPooled(nn.Module):
    """A BatchNorm with nothing before it, one after a pool, and one that can go."""

    def __init__(self) -> None:
        super().__init__()
        self.first_bn = nn.BatchNorm2d(1)
        self.conv = nn.Conv2d(1, 4, 3)
        self.conv_bn = nn.BatchNorm2d(4)
        self.pooled_bn = nn.BatchNorm2d(4)

    def forward(self, pixels_nchw: torch.Tensor) -> torch.Tensor:
        x = self.conv_bn(self.conv(self.first_bn(pixels_nchw)))
        return self.pooled_bn(torch.max_pool2d(x, 2)).mean((2, 3))


class Squeezed(nn.Module):
    """Blurred and squeezed: a picture of one colour is far from all that the BatchNorm saw."""

    def __init__(self) -> None:
        super().__init__()
        self.blur = nn.Conv2d(1, 8, 5, padding=2, bias=False)
        nn.init.uniform_(self.blur.weight, 0.5, 1.5)
        self.blur_bn = nn.BatchNorm2d(8)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, pixels_nchw: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.blur_bn(self.blur(pixels_nchw))).mean((2, 3), keepdim=True)
        return self.head(torch.relu(self.squeeze(x)).flatten(1))


class NoStatistics(nn.Module):
    """Normalises by each batch, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, pixels_nchw: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(pixels_nchw)).mean((2, 3))


def everything() -> nn.Module:
    return seeded(Everything)


def first_and_pooled() -> nn.Module:
    return seeded(FirstAndPooled)


def squeezed() -> nn.Module:
    torch.manual_seed(0)
    return lively(Squeezed(), (1, 16, 16))


def no_statistics() -> nn.Module:
    return NoStatistics()


def not_a_net() -> str:
    return "a string"


def broken() -> nn.Module:
    raise RuntimeError("no such layer")


def talkative() -> nn.Module:
    print("loaded pretrained weights")
    return everything()


def one_norm() -> nn.Module:
    """Conv → BatchNorm → Relu → pool → Linear, for pictures in colour of any size."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
