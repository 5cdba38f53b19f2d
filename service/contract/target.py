"""What every picture becomes before it is a row.  Plain values, so that a manifest is read without Pillow."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

from service.contract.framing import CropRounding, Frame, Resize

Mode = Literal["L", "RGB", "BGR"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What every picture becomes, and how many pixels one may have to be decoded at all.

    Args:
        mode: the row's channels, in their order.
        resize: None is a shorthand for exactly height×width, bilinear with antialias.
        background: the colour under transparency, one level a channel of L or RGB; empty to drop the alpha.
        fill: the levels around a picture that is smaller than the row.
        is_turned: whether EXIF's orientation counts.
        crop_rounding: of the first pixel that a centre crop keeps.
    """

    mode: Mode
    height: int
    width: int
    max_pixels: int
    resize: Resize | None = None
    background: tuple[int, ...] | None = None
    fill: tuple[int, ...] = (0,)
    is_turned: bool = True
    crop_rounding: CropRounding = "nearest"

    @property
    def num_channels(self) -> int:
        """1 or 3."""
        return 1 if self.mode == "L" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the pixels, C being 1 or 3."""
        return (self.num_channels, self.height, self.width)

    @cached_property  # weighing and decoding ask for it three times
    def frame(self) -> Frame:
        """How the pixels are resized and cropped or padded."""
        exact = self.resize or Resize(mode="exact", size=(self.height, self.width))
        return Frame(
            height=self.height,
            width=self.width,
            resize=exact,
            fill=self.fill,
            crop_rounding=self.crop_rounding,
        )

    def to_json(self) -> bytes:
        """What `from_json` reads in another process."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Target":
        """The target that `to_json` wrote."""
        fields = json.loads(text)
        resize = fields.pop("resize")
        levels = {name: fields.pop(name) for name in ("background", "fill")}
        return cls(
            **fields,
            resize=resize and Resize(**{**resize, "size": tuple(resize["size"])}),
            background=None if levels["background"] is None else tuple(levels["background"]),
            fill=tuple(levels["fill"]),
        )


def default_background(mode: Mode) -> tuple[int, ...]:
    """Black for grey nets, whose ink is light on dark as in MNIST; white for colour, as viewers show it."""
    return (0,) if mode == "L" else (255, 255, 255)
