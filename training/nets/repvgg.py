"""RepVGG (Ding et al. 2021): three branches in training, which the fold makes one Conv.

In: rows (N, C, H, W).  Out: logits (N, num_classes).

    ReLU( BN(Conv 3×3(x)) + BN(Conv 1×1(x)) + BN(x) )      `repeats` of each of `channels`
    mean over pixels → Linear

The identity's branch BN(x) is there only where the shape stays. Stages but the first begin with stride 2.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from training.nets.layers import conv_bn, mean_over_pixels
from training.nets.settings import NetSettings


@dataclass(frozen=True, kw_only=True)
class RepVggSettings(NetSettings):
    """Shape of the net."""

    channels: tuple[int, ...] = (48, 96, 192)
    repeats: tuple[int, ...] = (2, 3, 2)

    def __post_init__(self) -> None:
        self.check_sizes(*self.channels, *self.repeats)
        self.check_stages(channels=self.channels, repeats=self.repeats)


class RepVggBlock(nn.Module):
    """The sum of the branches, activated."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.wide = nn.Sequential(*conv_bn(in_channels, out_channels, 3, stride=stride))
        self.narrow = nn.Sequential(*conv_bn(in_channels, out_channels, 1, stride=stride))
        is_same_shape = stride == 1 and in_channels == out_channels
        self.activation = nn.ReLU()
        self.identity = nn.BatchNorm2d(in_channels) if is_same_shape else None

    def forward(self, x_nchw: Tensor) -> Tensor:
        """ReLU of the sum."""
        total = self.wide(x_nchw) + self.narrow(x_nchw)
        if self.identity is not None:
            total = total + self.identity(x_nchw)
        active: Tensor = self.activation(total)
        return active


class RepVgg(nn.Module):
    def __init__(self, settings: RepVggSettings) -> None:
        super().__init__()
        width = settings.input_shape[0]
        blocks: list[nn.Module] = []
        for stage, (channels, repeats) in enumerate(zip(settings.channels, settings.repeats, strict=True)):
            for index in range(repeats):
                blocks.append(RepVggBlock(width, channels, 2 if stage and not index else 1))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, settings.num_classes)

    def forward(self, rows_nchw: Tensor) -> Tensor:
        """(N, C, H, W) → logits (N, num_classes)."""
        logits_nk: Tensor = self.head(mean_over_pixels(self.blocks(rows_nchw)))
        return logits_nk
