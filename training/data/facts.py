"""What a net must know of its data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What a net must know of its data, and what a service needs to turn a picture into a row."""

    name: str
    labels: list[str]
    input_shape: tuple[int, int, int]
    mode: Literal["L", "RGB"]
    mean: list[float]
    std: list[float]

    def __post_init__(self) -> None:
        channels = {"L": 1, "RGB": 3}.get(self.mode)
        if len(self.input_shape) != 3 or self.input_shape[0] != channels:
            raise ValueError(
                f"mode {self.mode} needs input_shape ({channels}, height, width), got {self.input_shape}"
            )
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std need {channels} values each, got {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if len(self.labels) < 2:
            raise ValueError(f"labels must name at least 2 classes, got {self.labels}")
