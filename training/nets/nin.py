"""Network in network (Lin, Chen & Yan 2013) with BatchNorm.

In: rows (N, C, H, W).  Out: logits (N, num_classes).

    [ Conv k×k, Conv 1×1, Conv 1×1, each → BN → ReLU ]     for each of `channels`, with its own of `kernels`,
                                                           and a MaxPool 2 between two of them
    Conv 1×1 to num_classes → mean over pixels
"""

from dataclasses import dataclass

from torch import Tensor, nn

from training.nets.layers import conv_bn, mean_over_pixels
from training.nets.settings import NetSettings


@dataclass(frozen=True, kw_only=True)
class NinSettings(NetSettings):
    """Shape of the net."""

    channels: tuple[int, ...] = (96, 192, 192)
    kernels: tuple[int, ...] = (5, 5, 3)

    def __post_init__(self) -> None:
        self.check_sizes(*self.channels, *self.kernels)
        self.check_stages(channels=self.channels, kernels=self.kernels)
        self.check_poolings(len(self.channels) - 1)
        if not all(kernel % 2 for kernel in self.kernels):
            raise ValueError(f"kernels must be odd, got {self.kernels}")


class Nin(nn.Module):
    def __init__(self, settings: NinSettings) -> None:
        super().__init__()
        width = settings.input_shape[0]
        blocks: list[nn.Module] = []
        for channels, first_kernel in zip(settings.channels, settings.kernels, strict=True):
            if blocks:
                blocks.append(nn.MaxPool2d(2))
            for kernel in (first_kernel, 1, 1):
                blocks += [*conv_bn(width, channels, kernel), nn.ReLU()]
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.classify = nn.Conv2d(width, settings.num_classes, 1)

    def forward(self, rows_nchw: Tensor) -> Tensor:
        """(N, C, H, W) → logits (N, num_classes)."""
        return mean_over_pixels(self.classify(self.blocks(rows_nchw)))
