"""Blocks of Conv-BN-ReLU-pool, then a dense head with a BatchNorm of its own.

In: rows (N, C, H, W).  Out: logits (N, num_classes).

    Conv k×k → BN → ReLU → MaxPool 2          for each of `channels`, with its own of `kernels`
    flatten → Linear → BN → ReLU → Linear

The head's BatchNorm1d gives the fold a Linear besides the Convs. A layer before a BatchNorm has no bias of
its own: the BatchNorm would subtract it again.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.nets.layers import conv_bn
from training.nets.settings import NetSettings


@dataclass(frozen=True, kw_only=True)
class CnnSettings(NetSettings):
    """Shape of the net."""

    channels: tuple[int, ...] = (32, 64)
    kernels: tuple[int, ...] = (5, 3)
    hidden: int = 128

    def __post_init__(self) -> None:
        self.check_sizes(*self.channels, *self.kernels, self.hidden)
        if len(self.kernels) != len(self.channels) or not all(kernel % 2 for kernel in self.kernels):
            raise ValueError("kernels must be odd, one for each of channels")
        self.check_poolings(len(self.channels))


@dataclass(frozen=True, kw_only=True)
class SmallCnnSettings(CnnSettings):
    """A quarter of the arithmetic; on the default digits as accurate, and what a first run should take."""

    channels: tuple[int, ...] = (16, 32)
    kernels: tuple[int, ...] = (3, 3)


class Cnn(nn.Module):
    def __init__(self, settings: CnnSettings) -> None:
        super().__init__()
        num_channels, height, width = settings.input_shape
        blocks: list[nn.Module] = []
        for out_channels, kernel in zip(settings.channels, settings.kernels, strict=True):
            blocks += [*conv_bn(num_channels, out_channels, kernel), nn.ReLU(), nn.MaxPool2d(2)]
            num_channels, height, width = out_channels, height // 2, width // 2
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Linear(num_channels * height * width, settings.hidden, bias=False),
            nn.BatchNorm1d(settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, settings.num_classes),
        )

    def forward(self, rows_nchw: Tensor) -> Tensor:
        """(N, C, H, W) → logits (N, num_classes)."""
        logits_nk: Tensor = self.head(torch.flatten(self.blocks(rows_nchw), 1))
        return logits_nk
