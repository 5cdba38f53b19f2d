"""From a picture to a row, and from a row's answers to what a client reads: what a manifest declares.

In: `preprocessing` and `postprocessing` of a manifest.  Out: the `Target` of every picture, and rows.

    row = (level · scale − mean) / std          per channel, in the row's order, NCHW or NHWC

Keys that a manifest of schema version 1 or 2 lacks have the meaning that they had then: exactly height×width,
bilinear with antialias, transparency over black (grey) or white (colour), levels / 255, NCHW; and softmax,
unless the net ends in one.
"""

from functools import lru_cache
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from service.contract.framing import MAX_SIDE, CropRounding, Layout, Resize
from service.contract.strict import Strict
from service.contract.target import Mode, Target, default_background

SCALE = 1 / 255

Side = Annotated[int, Field(gt=0, le=MAX_SIDE)]
Level = Annotated[int, Field(ge=0, le=255)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Preprocessing(Strict):
    """Picture to row; `height` and `width` are the row's, `mode` its channels in their order.

    Args:
        resize: before the centre of height×width is cropped, or padded with `fill`.
        background: levels of L or RGB under transparency; an empty list drops the alpha.
        fill: one level, or one for each of L or RGB.
        orientation: whether EXIF's counts.
        crop_rounding: of the first pixel that the crop keeps, where as many cannot go on both sides.
    """

    mode: Mode
    height: Side
    width: Side
    mean: list[Finite]
    std: list[Positive]
    resize: Resize | None = None
    background: tuple[Level, ...] | None = None
    fill: tuple[Level, ...] = (0,)
    orientation: Literal["exif", "ignored"] = "exif"
    crop_rounding: CropRounding = "nearest"
    scale: Positive = SCALE
    layout: Layout = "NCHW"

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Self:
        channels = 1 if self.mode == "L" else 3
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mode {self.mode} needs {channels} means and stds, got {self.mean}, {self.std}")
        if len(self.fill) not in (1, channels) or len(self.background or ()) not in (0, channels):
            raise ValueError(f"mode {self.mode} needs {channels} levels of background and fill, or 1 of fill")
        return self

    @property
    def num_channels(self) -> int:
        """1 or 3."""
        return len(self.mean)

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """(C, H, W), or (H, W, C) in the layout NHWC."""
        if self.layout == "NHWC":
            return (self.height, self.width, self.num_channels)
        return (self.num_channels, self.height, self.width)

    def keys_since_version_3(self) -> set[str]:
        """The keys whose meaning a manifest of version 1 or 2 could not state."""
        fields = type(self).model_fields
        return {
            name
            for name, field in fields.items()
            if not field.is_required() and getattr(self, name) != field.default
        } | ({"mode"} if self.mode == "BGR" else set())

    def complete(self) -> "Preprocessing":
        """The same with every key written out, so that a reader needs to know no default."""
        return self.model_copy(
            update={
                "resize": self.resize or Resize(mode="exact", size=(self.height, self.width)),
                "background": default_background(self.mode) if self.background is None else self.background,
            }
        )

    def target(self, max_pixels: int) -> Target:
        """What a picture of at most `max_pixels` becomes before it is a row."""
        return Target(
            mode=self.mode,
            height=self.height,
            width=self.width,
            max_pixels=max_pixels,
            resize=self.resize,
            background=self.background,
            fill=self.fill,
            is_turned=self.orientation == "exif",
            crop_rounding=self.crop_rounding,
        )

    def write_row(self, pixels_chw: np.ndarray, row: np.ndarray) -> None:
        """Normalise pixels (C, H, W) uint8 into `row`, float32 of `row_shape`."""
        row_chw = row.transpose(2, 0, 1) if self.layout == "NHWC" else row
        mean_c11, std_c11 = (_by_channel(tuple(values)) for values in (self.mean, self.std))
        # In this order, as torchvision's ToTensor and Normalize do, to the last bit.
        np.divide(pixels_chw, np.float32(1 / self.scale), out=row_chw, dtype=np.float32)
        row_chw -= mean_c11
        row_chw /= std_c11

    def levels(self, rows: np.ndarray) -> np.ndarray:
        """The levels, 0 to 255 and in float64, that rows (N, …) of `row_shape` were made of."""
        shape = (1, 1, -1) if self.layout == "NHWC" else (-1, 1, 1)
        mean, std = (np.array(values, np.float64).reshape(shape) for values in (self.mean, self.std))
        levels: np.ndarray = (rows.astype(np.float64) * std + mean) / self.scale
        return levels


@lru_cache(64)
def _by_channel(values: tuple[float, ...]) -> np.ndarray:
    """(C, 1, 1) float32; never written to."""
    return np.array(values, np.float32).reshape(-1, 1, 1)


class Postprocessing(Strict):
    """What `/predict` makes of the first output.

    Args:
        task: classification answers with labels and probabilities that sum to 1; multi-label with one
            probability a label, each by itself; embedding with a vector; spatial with a map of values.
        activation: applied to each row; "none" where the graph ends in one, or has none.
        threshold: from which probability on a label of a multi-label net counts.
    """

    task: Literal["classification", "multi-label", "embedding", "spatial"]
    activation: Literal["softmax", "sigmoid", "none"]
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
