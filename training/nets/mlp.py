"""Dense layers: the net of most introductions, 784-256-10 on 28×28 pictures.

In: rows (N, C, H, W).  Out: logits (N, num_classes).

    flatten → [ Linear → BN → ReLU ] for each of `hidden` → Linear
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from training.nets.settings import NetSettings


@dataclass(frozen=True, kw_only=True)
class MlpSettings(NetSettings):
    """Width of each hidden layer; with `hidden=` there is none, and the net is linear."""

    hidden: tuple[int, ...] = (256,)

    def __post_init__(self) -> None:
        self.check_sizes(*self.hidden)


class Mlp(nn.Module):
    def __init__(self, settings: MlpSettings) -> None:
        super().__init__()
        width = math.prod(settings.input_shape)
        layers: list[nn.Module] = [nn.Flatten()]
        for hidden in settings.hidden:
            layers += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, settings.num_classes))

    def forward(self, rows_nchw: Tensor) -> Tensor:
        """(N, C, H, W) → logits (N, num_classes)."""
        logits_nk: Tensor = self.layers(rows_nchw)
        return logits_nk
