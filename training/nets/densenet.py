"""DenseNet-BC (Huang et al. 2017) for small pictures: every layer reads all those before it in its block.

In: rows (N, C, H, W).  Out: logits (N, num_classes).

    Conv 3×3 to 2·growth
    x ← concat(x, Conv 3×3(ReLU(BN(Conv 1×1(ReLU(BN(x)))))))          `layers` of each block
    BN → ReLU → Conv 1×1 to compression · channels → AvgPool 2        between two blocks
    BN → ReLU → mean over pixels → Linear

A BatchNorm after a concat shares its input with all later ones of the block, each with another scale and
shift, and a ReLU follows it: without a new op, at most one reader of a tensor folds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.nets.layers import conv, conv_bn, mean_over_pixels
from training.nets.settings import NetSettings

BOTTLENECK = 4


@dataclass(frozen=True, kw_only=True)
class DenseNetSettings(NetSettings):
    """Shape of the net; the default is DenseNet-BC-40 with growth 12."""

    growth: int = 12
    layers: tuple[int, ...] = (6, 6, 6)
    compression: float = 0.5

    def __post_init__(self) -> None:
        self.check_sizes(self.growth, *self.layers)
        self.check_stages(layers=self.layers)
        self.check_poolings(len(self.layers) - 1)
        if not 0 < self.compression <= 1:
            raise ValueError(f"compression must lie above 0 and be at most 1, got {self.compression}")


class DenseLayer(nn.Module):
    """Appends `growth` channels to its input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            *conv_bn(in_channels, BOTTLENECK * growth, 1),
            nn.ReLU(),
            conv(BOTTLENECK * growth, growth, 3),
        )

    def forward(self, x_nchw: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C + growth, H, W): the input, then the new channels."""
        return torch.cat([x_nchw, self.body(x_nchw)], dim=1)


class DenseNet(nn.Module):
    def __init__(self, settings: DenseNetSettings) -> None:
        super().__init__()
        width = 2 * settings.growth
        blocks: list[nn.Module] = [conv(settings.input_shape[0], width, 3)]
        for index, num_layers in enumerate(settings.layers):
            if index:
                narrow = max(1, int(width * settings.compression))
                blocks += [nn.BatchNorm2d(width), nn.ReLU(), conv(width, narrow, 1), nn.AvgPool2d(2)]
                width = narrow
            for _ in range(num_layers):
                blocks.append(DenseLayer(width, settings.growth))
                width += settings.growth
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.activation = nn.BatchNorm2d(width), nn.ReLU()
        self.head = nn.Linear(width, settings.num_classes)

    def forward(self, rows_nchw: Tensor) -> Tensor:
        """(N, C, H, W) → logits (N, num_classes)."""
        logits_nk: Tensor = self.head(mean_over_pixels(self.activation(self.norm(self.blocks(rows_nchw)))))
        return logits_nk
