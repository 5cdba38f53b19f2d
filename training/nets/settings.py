"""Settings of a net: a frozen dataclass beside each net, and how a command line writes them.

In: `depth=20`, `channels=16,32`, already split at the equals sign.  Out: plain values of the right type.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from training.errors import TrainingError
from training.settings.words import read_words as words_to_values


class NetError(TrainingError):
    """No such net, or settings that it cannot take."""


@dataclass(frozen=True, kw_only=True)
class NetSettings:
    """What the data says; each net adds its own."""

    input_shape: tuple[int, int, int]
    num_classes: int

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
    given_by_data = {field.name for field in fields(NetSettings)}
    hints = {name: hint for name, hint in get_type_hints(cls).items() if name not in given_by_data}
    return words_to_values(f"net {net}", hints, words, NetError)
