"""Settings of a net: a frozen dataclass beside each net, and how a command line writes them.

In: `depth=20`, `channels=16,32`, already split at the equals sign.  Out: plain values of the right type.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from training.errors import TrainingError, describe_unknown
from training.settings.words import read_words as words_to_values

FROM_DATA = ("input_shape", "num_classes", "per_picture")
CHOICES = {
    "activation": ("", "relu", "leaky_relu", "tanh", "sigmoid", "silu"),
    "bn": ("before", "after", "none"),
    "gamma": ("1", "0", "small", "normal"),
}


class NetError(TrainingError):
    """No such net, or settings that it cannot take."""


@dataclass(frozen=True, kw_only=True)
class NetSettings:
    """What the data says, and what every net may vary (variant.py); each net adds its own."""

    input_shape: tuple[int, int, int]
    num_classes: int
    per_picture: bool = False
    activation: str = ""
    bn: str = "before"
    gamma: str = "1"
    eps: float = 0.0
    bn_momentum: float = 0.0
    dropout: float = 0.0

    def check_shared(self) -> None:
        """Raise ValueError unless the settings that every net has are within their ranges."""
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(describe_unknown(name, getattr(self, name), filter(None, choices)))
        if not 0 <= self.eps < math.inf:
            raise ValueError(f"eps must be positive, or 0 for the net's own, got {self.eps}")
        if not 0 <= self.bn_momentum <= 1:
            raise ValueError(f"bn_momentum must lie in 0 .. 1, 0 for the net's own, got {self.bn_momentum}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in 0 .. 1, below 1, got {self.dropout}")

    def check_sizes(self, *sizes: int) -> None:
        """Raise ValueError unless there is something everywhere."""
        if min((*self.input_shape, *sizes)) < 1 or self.num_classes < 2:
            raise ValueError("every size must be at least 1, and num_classes at least 2")

    def check_poolings(self, num_poolings: int) -> None:
        """Raise ValueError unless `num_poolings` halvings leave at least one pixel."""
        if min(self.input_shape[1:]) < 2**num_poolings:
            raise ValueError(f"{num_poolings} poolings leave nothing of {self.input_shape[1:]} pixels")

    def check_stages(self, **stages: tuple[int, ...]) -> None:
        """Raise ValueError unless every tuple has an entry for each stage."""
        if len({len(entries) for entries in stages.values()}) != 1 or not all(stages.values()):
            names = " and ".join(stages)
            raise ValueError(f"{names} must have an entry for each stage, got {list(stages.values())}")


def read_words(net: str, cls: type[NetSettings], words: Mapping[str, str]) -> dict[str, Any]:
    """Values of the settings that `words` name; what the data says is not for the user to set."""
    hints = {name: hint for name, hint in get_type_hints(cls).items() if name not in FROM_DATA}
    return words_to_values(f"net {net}", hints, words, NetError)
