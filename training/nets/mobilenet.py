"""MobileNetV2 (Sandler et al. 2018) for small pictures: inverted residuals with depthwise Convs.

In: rows (N, C, H, W).  Out: logits (N, num_classes).

    Conv 3×3 → BN → ReLU6
    x + BN(Conv 1×1(ReLU6(BN(depthwise 3×3(ReLU6(BN(Conv 1×1(x))))))))     `repeats` of each of `channels`
    Conv 1×1 → BN → ReLU6 → mean over pixels → Linear

The first stage does not widen. A block that changes the shape, the first of a stage at most, has no shortcut.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from training.nets.layers import conv_bn, mean_over_pixels
from training.nets.settings import NetSettings


@dataclass(frozen=True, kw_only=True)
class MobileNetSettings(NetSettings):
    """Shape of the net; `expansion` is how much wider a block is inside."""

    channels: tuple[int, ...] = (16, 24, 32, 64, 96)
    repeats: tuple[int, ...] = (1, 2, 3, 3, 2)
    strides: tuple[int, ...] = (1, 1, 2, 2, 1)
    expansion: int = 6
    stem: int = 32
    last: int = 512

    def __post_init__(self) -> None:
        sizes = (*self.channels, *self.repeats, *self.strides, self.expansion, self.stem, self.last)
        self.check_sizes(*sizes)
        self.check_stages(channels=self.channels, repeats=self.repeats, strides=self.strides)


class InvertedResidual(nn.Module):
    """Widen, filter each channel alone, narrow without an activation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        widen = [] if expansion == 1 else [*conv_bn(in_channels, wide, 1), nn.ReLU6()]
        self.body = nn.Sequential(
            *widen,
            *conv_bn(wide, wide, 3, stride=stride, groups=wide),
            nn.ReLU6(),
            *conv_bn(wide, out_channels, 1),
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x_nchw: Tensor) -> Tensor:
        """The sum, with no activation after it."""
        narrow: Tensor = self.body(x_nchw)
        return x_nchw + narrow if self.has_shortcut else narrow


class MobileNet(nn.Module):
    def __init__(self, settings: MobileNetSettings) -> None:
        super().__init__()
        width = settings.stem
        layers: list[nn.Module] = [*conv_bn(settings.input_shape[0], width, 3), nn.ReLU6()]
        stages = zip(settings.channels, settings.repeats, settings.strides, strict=True)
        for stage, (channels, repeats, first_stride) in enumerate(stages):
            for index in range(repeats):
                stride = 1 if index else first_stride
                layers.append(InvertedResidual(width, channels, stride, settings.expansion if stage else 1))
                width = channels
        self.layers = nn.Sequential(*layers, *conv_bn(width, settings.last, 1), nn.ReLU6())
        self.head = nn.Linear(settings.last, settings.num_classes)

    def forward(self, rows_nchw: Tensor) -> Tensor:
        """(N, C, H, W) → logits (N, num_classes)."""
        logits_nk: Tensor = self.head(mean_over_pixels(self.layers(rows_nchw)))
        return logits_nk
