"""Two ResNets with random weights, for `python -m export bundle benchmarks.serving.resnets:resnet20`.

In: nothing; everything is drawn from seed 0.  Out: nets in eval mode, rows (N, 3, S, S) to logits.

    resnet20   3·3 blocks of 16, 32, 64 channels, rows of 32×32, 10 classes     (He et al. 2015, section 4.2)
    resnet18   4·2 blocks of 64 to 512 channels, rows of 224×224, 1000 classes  (He et al. 2015, table 1)

Every BatchNorm has the statistics of what reaches it, a random γ and β, and the last layer has large weights:
answers differ from row to row.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def resnet20() -> nn.Module:
    """The small one."""
    return _drawn(lambda: ResNet((16, 32, 64), num_blocks=3, num_classes=10, stem=_small_stem), 32)


def resnet18() -> nn.Module:
    """The usual one."""
    return _drawn(lambda: ResNet((64, 128, 256, 512), num_blocks=2, num_classes=1000, stem=_stem), 224)


class Block(nn.Module):
    """Two convolutions and what goes past them."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_in != num_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(num_in, num_out, 1, stride, bias=False), nn.BatchNorm2d(num_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, stages that halve the picture, the mean over what is left, a Linear."""

    def __init__(
        self, channels: tuple[int, ...], num_blocks: int, num_classes: int, stem: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.stem = stem(channels[0])
        blocks: list[nn.Module] = []
        num_in = channels[0]
        for stage, num_out in enumerate(channels):
            for index in range(num_blocks):
                blocks.append(Block(num_in, num_out, stride=2 if stage > 0 and index == 0 else 1))
                num_in = num_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(num_in, num_classes)

    def forward(self, rows_nchw: Tensor) -> Tensor:
        logits_nk: Tensor = self.head(self.blocks(self.stem(rows_nchw)).mean((2, 3)))
        return logits_nk


def _small_stem(num_out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, num_out, 3, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU())


def _stem(num_out: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, num_out, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(num_out),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


def _drawn(build: Callable[[], nn.Module], size: int) -> nn.Module:
    torch.manual_seed(0)
    net = build()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average over what comes
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 8 / module.in_features**0.5)
    with torch.no_grad():
        net.train()(torch.randn(16, 3, size, size))
    return net.eval()
