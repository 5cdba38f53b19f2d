"""VGG (Simonyan & Zisserman 2014) with BatchNorm, for small pictures: by default VGG-11 but its last stage.

In: rows (N, C, H, W).  Out: logits (N, num_classes).

    [ Conv 3×3 → BN → ReLU ] × n → MaxPool 2      for each of `channels`, with its own n of `convs`
    flatten → Linear → BN → ReLU → Linear
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.nets.layers import conv_bn
from training.nets.settings import NetSettings


@dataclass(frozen=True, kw_only=True)
class VggSettings(NetSettings):
    """Shape of the net."""

    channels: tuple[int, ...] = (64, 128, 256, 512)
    convs: tuple[int, ...] = (1, 1, 2, 2)
    hidden: int = 512

    def __post_init__(self) -> None:
        self.check_sizes(*self.channels, *self.convs, self.hidden)
        self.check_stages(channels=self.channels, convs=self.convs)
        self.check_poolings(len(self.channels))


class Vgg(nn.Module):
    def __init__(self, settings: VggSettings) -> None:
        super().__init__()
        width, *pixels = settings.input_shape
        stages: list[nn.Module] = []
        for channels, num_convs in zip(settings.channels, settings.convs, strict=True):
            for _ in range(num_convs):
                stages += [*conv_bn(width, channels, 3), nn.ReLU()]
                width = channels
            stages.append(nn.MaxPool2d(2))
            pixels = [side // 2 for side in pixels]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(
            nn.Linear(width * pixels[0] * pixels[1], settings.hidden, bias=False),
            nn.BatchNorm1d(settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, settings.num_classes),
        )

    def forward(self, rows_nchw: Tensor) -> Tensor:
        """(N, C, H, W) → logits (N, num_classes)."""
        logits_nk: Tensor = self.head(torch.flatten(self.stages(rows_nchw), 1))
        return logits_nk
