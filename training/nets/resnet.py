"""ResNet for small pictures (He et al. 2015, section 4.2): depth 6n + 2, three stages of n blocks.

In: rows (N, C, H, W).  Out: logits (N, num_classes).

    Conv 3×3 → BN → ReLU
    y = ReLU( BN(Conv(ReLU(BN(Conv(x))))) + shortcut(x) )       n blocks of width, 2·width and 4·width
    mean over pixels → Linear

The first block of the second and the third stage halves the picture; its shortcut is Conv 1×1 → BN.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from training.nets.layers import conv_bn, mean_over_pixels
from training.nets.settings import NetSettings


@dataclass(frozen=True, kw_only=True)
class ResNetSettings(NetSettings):
    """Layers with weights on the longest way, and channels of the first stage."""

    depth: int = 20
    width: int = 16

    def __post_init__(self) -> None:
        self.check_sizes(self.depth, self.width)
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2 (8, 14, 20, …), got {self.depth}")

    def blocks(self) -> list[tuple[int, int, int]]:
        """Channels in, channels out and stride of each block."""
        shapes, before = [], self.width
        for stage in range(3):
            for index in range((self.depth - 2) // 6):
                channels = self.width << stage
                shapes.append((before, channels, 2 if stage and not index else 1))
                before = channels
        return shapes


class Block(nn.Module):
    """Two Convs beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn(in_channels, out_channels, 3, stride=stride),
            nn.ReLU(),
            *conv_bn(out_channels, out_channels, 3),
        )
        is_same_shape = stride == 1 and in_channels == out_channels
        self.activation = nn.ReLU()
        self.shortcut = (
            nn.Identity()
            if is_same_shape
            else nn.Sequential(*conv_bn(in_channels, out_channels, 1, stride=stride))
        )

    def forward(self, x_nchw: Tensor) -> Tensor:
        """The sum, activated."""
        total: Tensor = self.activation(self.body(x_nchw) + self.shortcut(x_nchw))
        return total


class ResNet(nn.Module):
    def __init__(self, settings: ResNetSettings) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(settings.input_shape[0], settings.width, 3), nn.ReLU())
        self.blocks = nn.Sequential(*(Block(*shape) for shape in settings.blocks()))
        self.head = nn.Linear(4 * settings.width, settings.num_classes)

    def forward(self, rows_nchw: Tensor) -> Tensor:
        """(N, C, H, W) → logits (N, num_classes)."""
        logits_nk: Tensor = self.head(mean_over_pixels(self.blocks(self.stem(rows_nchw))))
        return logits_nk
