"""Pre-activation ResNet (He et al. 2016): BatchNorm and ReLU before each Conv, a stream of bare sums.

In: rows (N, C, H, W).  Out: logits (N, num_classes).

    Conv 3×3
    z = ReLU(BN(x)),   y = Conv(ReLU(BN(Conv(z)))) + shortcut      n blocks of width, 2·width and 4·width
    BN → ReLU → mean over pixels → Linear

The shortcut is x, or Conv 1×1 of z where the shape changes. Half of the BatchNorms read the stream, with no
Conv of their own before them. Where every γ is positive they still fold, for the stream can be stored scaled
and shifted; of those with γ of both signs only one a stage does. `--positive-gamma` keeps them positive.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from training.nets.layers import conv, mean_over_pixels
from training.nets.resnet import ResNetSettings


@dataclass(frozen=True, kw_only=True)
class PreActResNetSettings(ResNetSettings):
    """Depth and width as those of a ResNet."""


class PreActBlock(nn.Module):
    """Two Convs, each after its BatchNorm and ReLU, beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm, self.activation = nn.BatchNorm2d(in_channels), nn.ReLU()
        self.body = nn.Sequential(
            conv(in_channels, out_channels, 3, stride=stride),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            conv(out_channels, out_channels, 3),
        )
        is_same_shape = stride == 1 and in_channels == out_channels
        self.project = None if is_same_shape else conv(in_channels, out_channels, 1, stride=stride)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """The sum, with no activation after it."""
        active = self.activation(self.norm(x_nchw))
        shortcut = x_nchw if self.project is None else self.project(active)
        total: Tensor = self.body(active) + shortcut
        return total


class PreActResNet(nn.Module):
    def __init__(self, settings: PreActResNetSettings) -> None:
        super().__init__()
        self.stem = conv(settings.input_shape[0], settings.width, 3)
        self.blocks = nn.Sequential(*(PreActBlock(*shape) for shape in settings.blocks()))
        self.norm, self.activation = nn.BatchNorm2d(4 * settings.width), nn.ReLU()
        self.head = nn.Linear(4 * settings.width, settings.num_classes)

    def forward(self, rows_nchw: Tensor) -> Tensor:
        """(N, C, H, W) → logits (N, num_classes)."""
        stream = self.blocks(self.stem(rows_nchw))
        logits_nk: Tensor = self.head(mean_over_pixels(self.activation(self.norm(stream))))
        return logits_nk
