"""What a net must know of its data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from service.contract.framing import Interpolation, Resize, ResizeMode

if TYPE_CHECKING:  # it needs Pillow, which export does without
    from service.contract.preprocessing import Preprocessing


def resizing(mode: str, interpolation: str, sides: tuple[int, int]) -> Resize | None:
    """How pictures become height × width, as the contract states it; None for its default."""
    if (mode, interpolation) == ("exact", "bilinear"):
        return None
    return Resize(mode=mode, size=sides, interpolation=interpolation)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What a net must know of its data, and what a service needs to turn a picture into a row.

    `resize` is exact (to height×width, whatever the picture's shape), shorter (cropped) or longest (padded).
    """

    name: str
    labels: list[str]
    input_shape: tuple[int, int, int]
    mode: Literal["L", "RGB"]
    mean: list[float]
    std: list[float]
    resize: ResizeMode = "exact"
    interpolation: Interpolation = "bilinear"

    @property
    def resizing(self) -> Resize | None:
        """As the contract states it; None for the default."""
        return resizing(self.resize, self.interpolation, self.input_shape[1:])

    def preprocessing(self) -> "Preprocessing":
        """What the service does with a picture."""
        from service.contract.preprocessing import Preprocessing

        _, height, width = self.input_shape
        return Preprocessing(
            mode=self.mode,
            height=height,
            width=width,
            mean=list(self.mean),
            std=list(self.std),
            resize=self.resizing,
        )

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
