"""The flags of `bundle` that say what a picture becomes, and what is made of the answer.

In: a parser.  Out: its flags; from the parsed ones a `Declared`.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from export.sources.declared import Declared, read_resize

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
TASKS = ("classification", "multi-label", "embedding", "spatial")
_PARTS = (
    *("mean", "std", "scale", "crop", "crop_fraction", "crop_rounding", "interpolation", "antialias"),
    *("layout", "channels", "background", "fill", "orientation"),
)


def add_picture_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags; `declared_in` reads them."""
    group = verb.add_argument_group("pictures")
    add = group.add_argument
    add("--preprocessing", metavar="FROM", help="timm:NAME, torchvision:NAME, or a preprocessor_config.json")
    add("--resize", type=_RESIZE, metavar="HOW:SIZE", help="shorter:256, exact:224x224, letterbox:640 …")
    add("--crop", type=_SIDES, metavar="SIZE", help="centre crop: 224, or 224x320 (height x width)")
    add("--crop-fraction", type=_FRACTION, metavar="F", help="as timm's crop_pct: resize to crop / F first")
    add("--crop-rounding", choices=["nearest", "down"], help="of the first pixel kept; down: Hugging Face")
    add("--interpolation", choices=INTERPOLATIONS, metavar="NAME", help=", ".join(INTERPOLATIONS))
    add("--antialias", action=argparse.BooleanOptionalAction, help="filters widen when a picture shrinks")
    add("--scale", type=float, metavar="S", help="(level * S - mean) / std; default 1/255")
    add("--layout", choices=["NCHW", "NHWC"])
    add("--channels", choices=["RGB", "BGR", "L"])
    add("--background", type=_LEVELS, metavar="R,G,B", help="colour under transparency; none drops alpha")
    add("--fill", type=_LEVELS, metavar="R,G,B", help="levels around a picture smaller than the row")
    add("--orientation", choices=["exif", "ignored"])
    add("--compare-with", metavar="MODULE:CALLABLE", help="a pipeline that must give the same rows")
    add("--task", choices=TASKS, metavar="NAME", help=", ".join(TASKS))
    add("--activation", choices=["softmax", "sigmoid", "none"], help="what the answer still needs")


def declared_in(options: argparse.Namespace) -> Declared:
    """What the flags say of pictures."""
    given: dict[str, Any] = {
        name: getattr(options, name) for name in _PARTS if getattr(options, name) is not None
    }
    return replace(options.resize or Declared(), **given)


def expecting(what: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """`read`, whose ValueError becomes a sentence that says what was expected."""

    def reading(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {what}, got '{text}'") from None

    return reading


def _sides(text: str) -> tuple[int, int]:
    sizes = [int(side) for side in text.split("x")]
    if len(sizes) > 2 or min(sizes) < 1:
        raise ValueError(text)
    return sizes[0], sizes[-1]


def _fraction(text: str) -> float:
    if not 0 < (fraction := float(text)) <= 1:
        raise ValueError(text)
    return fraction


def _levels(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(int(level) for level in text.split(","))


_RESIZE = expecting("shorter:256, exact:224x224, letterbox:640 …", read_resize)
_SIDES = expecting("224, or 224x320", _sides)
_FRACTION = expecting("a number over 0, up to 1", _fraction)
_LEVELS = expecting("levels such as 255,255,255, or none", _levels)
