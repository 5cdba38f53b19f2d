"""Nets as people export them: each puts something else in the file than the last."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

SIDE = 16


class Classifier(nn.Module):
    """Convolutions, a depthwise and a transposed one; then a flatten, a view, a reshape or a mean."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.head = head
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.Hardswish(),
            nn.MaxPool2d(2),
            nn.ConvTranspose2d(8, 8, 2, 2),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.AvgPool2d(2),
        )
        self.classes = nn.Sequential(
            nn.Linear(8 if head == "mean" else 8 * (SIDE // 2) ** 2, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Linear(16, 5),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        if self.head == "mean":
            x = x.mean((2, 3))
        elif self.head == "flatten":
            x = torch.flatten(x, 1)
        elif self.head == "view":
            x = x.view(x.size(0), -1)
        else:
            x = x.reshape(x.shape[0], 8 * (SIDE // 2) ** 2)
        return self.classes(x)


class Segmentation(nn.Module):
    """Spatial answers as large as the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.again, self.out = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up = self.again(nn.functional.interpolate(self.down(x), scale_factor=2, mode="nearest"))
        return nn.functional.interpolate(self.out(up), size=x.shape[2:], mode="bilinear", align_corners=False)


class TwoOfEach(nn.Module):
    """A picture and a vector in, logits and an embedding out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv_bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.linear, self.linear_bn = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, facts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = torch.relu(self.conv_bn(self.conv(x))).mean((2, 3))
        return self.out(embedding + torch.relu(self.linear_bn(self.linear(facts)))), embedding


class Recurrent(nn.Module):
    """A convolution over time before an LSTM, whose state of zeros the exporter writes for so many rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU())
        self.lstm = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
        self.norm, self.out = nn.BatchNorm1d(12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.lstm(self.conv(x).transpose(1, 2))[0][:, -1]))


class Pixels(nn.Module):
    """uint8 pixels in NHWC, normalised by the net itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Classifier("mean")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net((x.permute(0, 3, 1, 2).to(next(self.net.parameters()).dtype) / 255 - 0.45) / 0.25)


class Chosen(nn.Module):
    """Probabilities, and the place of the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Classifier("flatten")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.net(x)
        return logits.softmax(1), logits.argmax(1)


@dataclass(frozen=True)
class Exported:
    """A net, and the rows of its inputs."""

    build: Callable[[], nn.Module]
    row_shapes: tuple[tuple[int, ...], ...] = ((3, SIDE, SIDE),)
    dtype: torch.dtype = torch.float32

    def net(self) -> nn.Module:
        """Seeded, with statistics, γ and β: leaving one out changes the answers."""
        torch.manual_seed(0)
        net, chance = self.build().eval(), torch.Generator().manual_seed(1)
        for norm in (module for module in net.modules() if isinstance(module, _BatchNorm)):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(0, 0.3, generator=chance)
            norm.running_var.uniform_(0.5, 2, generator=chance)
            with torch.no_grad():
                norm.weight.uniform_(0.5, 1.5, generator=chance)
                norm.bias.normal_(0, 0.3, generator=chance)
        return net if self.dtype == torch.uint8 else net.to(self.dtype)

    def rows(self, num_rows: int) -> tuple[torch.Tensor, ...]:
        """Rows of every input."""
        chance = torch.Generator().manual_seed(2)
        return tuple(
            torch.randint(0, 256, (num_rows, *shape), generator=chance, dtype=torch.uint8)
            if self.dtype == torch.uint8
            else torch.randn(num_rows, *shape, generator=chance).to(self.dtype)
            for shape in self.row_shapes
        )


NETS = {
    **{head: Exported(lambda head=head: Classifier(head)) for head in ("flatten", "view", "reshape", "mean")},
    "segmentation": Exported(Segmentation),
    "two": Exported(TwoOfEach, ((3, SIDE, SIDE), (4,))),
    "recurrent": Exported(Recurrent, ((4, 20),)),
    "pixels": Exported(Pixels, ((SIDE, SIDE, 3),), torch.uint8),
    "chosen": Exported(Chosen),
    "double": Exported(lambda: Classifier("mean"), dtype=torch.float64),
    "half": Exported(lambda: Classifier("mean"), dtype=torch.float16),
}
