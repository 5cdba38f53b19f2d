"""Layers that several nets are made of.

A layer before a BatchNorm has no bias of its own: the BatchNorm would subtract it again.
"""

from torch import Tensor, nn


def conv(in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A Conv without bias; an odd kernel keeps the picture's size, but for the stride."""
    return nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )


def conv_bn(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Conv → BN."""
    return [
        conv(in_channels, out_channels, kernel, stride=stride, groups=groups),
        nn.BatchNorm2d(out_channels),
    ]


def mean_over_pixels(x_nchw: Tensor) -> Tensor:
    """Global average pooling: (N, C, H, W) to (N, C)."""
    return x_nchw.mean((2, 3))
