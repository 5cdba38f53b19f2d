"""ResNet-18, ResNet-20 and ResNet-50 (He et al. 2015: table 1, section 4.2), written plainly.

In: rows (N, 3, S, S), S being `side`.  Out: logits (N, num_classes).

    basic        Conv 3×3 → BN → ReLU → Conv 3×3 → BN                          plus a shortcut
    bottleneck   Conv 1×1 → BN → ReLU → Conv 3×3 → BN → ReLU → Conv 1×1 → BN   4 times as wide at its end

For pictures below 64 pixels the stem is one Conv 3×3 instead of a Conv 7×7 and a pooling, as usual on CIFAR.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import relu

SMALL_PICTURE = 64


def resnet18(side: int, num_classes: int) -> nn.Module:
    """Blocks of two Convs: 11.7 million parameters for 1000 classes."""
    return ResNet(basic, 1, 64, (2, 2, 2, 2), side, num_classes)


def resnet50(side: int, num_classes: int) -> nn.Module:
    """Blocks of three Convs: 25.6 million parameters for 1000 classes."""
    return ResNet(bottleneck, 4, 64, (3, 4, 6, 3), side, num_classes)


def resnet20(side: int, num_classes: int) -> nn.Module:
    """Blocks of two Convs, from 16 channels on: 0.27 million parameters for 10 classes."""
    return ResNet(basic, 1, 16, (3, 3, 3), side, num_classes)


def conv_bn(num_in: int, num_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A Conv that keeps the picture's size, divided by `stride`, and its BatchNorm."""
    conv = nn.Conv2d(num_in, num_out, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(num_out)]


def basic(num_in: int, width: int, stride: int) -> nn.Sequential:
    """Two Convs of `width` channels."""
    return nn.Sequential(*conv_bn(num_in, width, 3, stride), nn.ReLU(), *conv_bn(width, width, 3))


def bottleneck(num_in: int, width: int, stride: int) -> nn.Sequential:
    """Three Convs, of `width` channels and of 4 times as many."""
    return nn.Sequential(
        *conv_bn(num_in, width, 1),
        nn.ReLU(),
        *conv_bn(width, width, 3, stride),
        nn.ReLU(),
        *conv_bn(width, 4 * width, 1),
    )


class Block(nn.Module):
    """A body plus a shortcut."""

    def __init__(self, body: nn.Sequential, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.body = body
        is_same_shape = stride == 1 and num_in == num_out
        self.shortcut = (
            nn.Identity() if is_same_shape else nn.Sequential(*conv_bn(num_in, num_out, 1, stride))
        )

    def forward(self, x_nchw: Tensor) -> Tensor:
        return relu(self.body(x_nchw) + self.shortcut(x_nchw))


class ResNet(nn.Module):
    """A stem, stages that halve the picture and double the channels, the mean over positions, a Linear."""

    def __init__(
        self,
        body: Callable[[int, int, int], nn.Sequential],
        widening: int,
        channels: int,
        num_blocks: tuple[int, ...],
        side: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        large = side >= SMALL_PICTURE
        stem = conv_bn(3, channels, 7, 2) if large else conv_bn(3, channels, 3)
        pooling = [nn.MaxPool2d(3, stride=2, padding=1)] if large else []
        self.stem = nn.Sequential(*stem, nn.ReLU(), *pooling)
        blocks: list[nn.Module] = []
        num_in = channels
        for stage, count in enumerate(num_blocks):
            for index in range(count):
                width, stride = channels << stage, 2 if stage and not index else 1
                blocks.append(Block(body(num_in, width, stride), num_in, widening * width, stride))
                num_in = widening * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(num_in, num_classes)

    def forward(self, rows_nchw: Tensor) -> Tensor:
        logits_nk: Tensor = self.head(self.blocks(self.stem(rows_nchw)).mean((2, 3)))
        return logits_nk
