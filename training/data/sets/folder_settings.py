"""What the user may choose for a folder of pictures."""

from dataclasses import dataclass, replace
from typing import get_args

from service.contract.framing import Interpolation, ResizeMode
from training.data.facts import DataFacts
from training.errors import DataError, describe_unknown


@dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """`size` is SIDE or HEIGHTxWIDTH, and `mode` L or RGB; where not given, as the pictures are.

    `resize` keeps proportions where it is shorter (the rest is cropped) or longest (padded with black).
    Classes with fewer than `min_pictures` pictures are left out.
    `memory_mb` is the maximum that is held in memory (or on the device), in MiB; 0 streams everything.
    """

    size: str = ""
    resize: str = "exact"
    interpolation: str = "bilinear"
    mode: str = ""
    max_corrupt_share: float = 0.01
    max_pixels: int = 40_000_000
    memory_mb: int = 1024
    min_pictures: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("", "L", "RGB"):
            raise DataError(f"mode must be L or RGB, got {self.mode!r}")
        for name, known in (("resize", get_args(ResizeMode)), ("interpolation", get_args(Interpolation))):
            if getattr(self, name) not in known:
                raise DataError(describe_unknown(name, getattr(self, name), known))
        if not 0 <= self.max_corrupt_share < 1:
            raise DataError(f"max_corrupt_share must lie in 0 .. 1, below 1, got {self.max_corrupt_share}")
        if self.max_pixels < 1 or min(self.memory_mb, self.min_pictures) < 0:
            raise DataError(
                f"max_pixels must be positive, memory_mb not negative, nor min_pictures, got {self}"
            )

    def sides(self) -> tuple[int, int] | None:
        """Height and width, if given."""
        sides = [int(side) for side in self.size.split("x") if side.isascii() and side.isdigit()]
        if self.size and (len(sides) != self.size.count("x") + 1 or len(sides) > 2 or min(sides) < 1):
            raise DataError(f"size must be SIDE or HEIGHTxWIDTH, such as 64 or 48x64, got {self.size!r}")
        return (sides[0], sides[-1]) if sides else None

    def resized(self, facts: DataFacts) -> DataFacts:
        """The facts with the rule of these settings."""
        return replace(facts, resize=self.resize, interpolation=self.interpolation)  # type: ignore[arg-type]
