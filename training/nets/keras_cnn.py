"""The net of many Keras tutorials: BatchNorm first, and after the activation instead of before it.

In: rows (N, C, H, W).  Out: logits (N, num_classes).

    BN
    Conv k×k, unpadded → ReLU → BN → MaxPool 2     for each of `channels`, with its own of `kernels`
    flatten → [ Linear → ReLU → BN ] for each of `hidden` → Linear

A BatchNorm after a ReLU has no linear layer before it, so it can only fold forward: the first one because
the Conv is unpadded, those before a MaxPool where γ > 0, those between dense layers always. ε is Keras's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.nets.settings import NetSettings

KERAS_EPSILON = 1e-3


@dataclass(frozen=True, kw_only=True)
class KerasCnnSettings(NetSettings):
    """Shape of the net."""

    channels: tuple[int, ...] = (32, 64)
    kernels: tuple[int, ...] = (3, 3)
    hidden: tuple[int, ...] = (128,)

    def __post_init__(self) -> None:
        self.check_sizes(*self.channels, *self.kernels, *self.hidden)
        self.check_stages(channels=self.channels, kernels=self.kernels)
        if min(self.pixels_left()) < 1:
            raise ValueError(f"kernels {self.kernels} and their poolings leave nothing of {self.input_shape}")

    def pixels_left(self) -> tuple[int, int]:
        """Height and width after the last pooling."""
        height, width = self.input_shape[1:]
        for kernel in self.kernels:
            height, width = (height - kernel + 1) // 2, (width - kernel + 1) // 2
        return height, width


class KerasCnn(nn.Module):
    def __init__(self, settings: KerasCnnSettings) -> None:
        super().__init__()
        width = settings.input_shape[0]
        blocks: list[nn.Module] = [nn.BatchNorm2d(width, eps=KERAS_EPSILON)]
        for channels, kernel in zip(settings.channels, settings.kernels, strict=True):
            blocks += [
                nn.Conv2d(width, channels, kernel),
                nn.ReLU(),
                nn.BatchNorm2d(channels, eps=KERAS_EPSILON),
                nn.MaxPool2d(2),
            ]
            width = channels
        height_left, width_left = settings.pixels_left()
        width *= height_left * width_left
        head: list[nn.Module] = []
        for hidden in settings.hidden:
            head += [nn.Linear(width, hidden), nn.ReLU(), nn.BatchNorm1d(hidden, eps=KERAS_EPSILON)]
            width = hidden
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*head, nn.Linear(width, settings.num_classes))

    def forward(self, rows_nchw: Tensor) -> Tensor:
        """(N, C, H, W) → logits (N, num_classes)."""
        logits_nk: Tensor = self.head(torch.flatten(self.blocks(rows_nchw), 1))
        return logits_nk
