"""Where a picture's pixels go: resized by a rule, then cropped or padded around the centre.

In: a picture's size and a `Resize`.  Out: the size to resize to, and the part of it that the row holds.

    exact     [h, w]   h×w, whatever the picture's shape
    shorter   [s]      the shorter side becomes s, the longer int(s · longer / shorter)  torchvision Resize
    shorter   [h, w]   the smallest size that covers h×w, each side rounded              timm ResizeKeepRatio
    longest   [h, w]   the largest size within h×w, each side rounded                    letterbox

One number stands for two equal ones in `exact` and `longest`. What sticks out of the row is cropped, the
first pixel being (resized − row) / 2, rounded to the nearest number (torchvision, timm) or down (Hugging
Face, slices of an array); what is missing is padded, (row − resized) // 2 before.
"""

from dataclasses import dataclass
from typing import Literal

ResizeMode = Literal["exact", "shorter", "longest"]
Layout = Literal["NCHW", "NHWC"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
CropRounding = Literal["nearest", "down"]

MAX_SIDE = 1 << 16  # of what a picture is resized to


@dataclass(frozen=True, kw_only=True)
class Resize:
    """How a picture is resized; raises ValueError for a rule that nothing can follow.

    With `antialias` Pillow's filters, which widen when a picture shrinks; without it each pixel comes from
    the nearest 2×2 (bilinear) or 4×4 (bicubic), as in OpenCV. The nearest pixel needs no filter.
    """

    mode: ResizeMode
    size: tuple[int, ...]
    interpolation: Interpolation = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        if len(self.size) not in (1, 2) or not all(0 < side <= MAX_SIDE for side in self.size):
            raise ValueError(f"size must be 1 or 2 sides from 1 to {MAX_SIDE}, got {list(self.size)}")
        if self.interpolation == "lanczos" and not self.antialias:
            raise ValueError("lanczos is defined with antialias only")

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a picture is resized to, each at least 1."""
        if self.mode == "shorter" and len(self.size) == 1:
            side, shorter, longer = self.size[0], min(height, width), max(height, width)
            long_side = int(side * longer / shorter)
            return (side, long_side) if width >= height else (long_side, side)
        target_height, target_width = self.size[0], self.size[-1]
        if self.mode == "exact":
            return target_height, target_width
        ratios = (height / target_height, width / target_width)
        ratio = max(ratios) if self.mode == "longest" else min(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A row's height and width, how a picture is resized and cropped, what surrounds a small one."""

    height: int
    width: int
    resize: Resize
    fill: tuple[int, ...]
    crop_rounding: CropRounding = "nearest"


@dataclass(frozen=True, kw_only=True)
class Span:
    """Along one axis: pixels `start` to `start + length` of the resized picture, `before` into the row."""

    start: int
    length: int
    before: int


def centred(resized: int, row: int, rounding: CropRounding) -> Span:
    """The part of a resized side that a row's side holds."""
    if resized >= row:
        start = round((resized - row) / 2) if rounding == "nearest" else (resized - row) // 2
        return Span(start=start, length=row, before=0)
    return Span(start=0, length=resized, before=(row - resized) // 2)
