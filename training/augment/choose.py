"""The values of `--augment`: names with commas between, `none`, or `auto` for what suits the data set.

In: `crop,flip` or `crop=4,cutout=8`, and the facts of the data.  Out: an `Augmentation`.

    affine          turn, scale and shift a little, as a hand would
    shift, crop     by up to N pixels (default: an eighth of the shorter side), black or mirrored at the edge
    flip            left to right, every second picture
    cutout          a square of N × N pixels (default: a quarter of the shorter side) in the mean colour
    resized-crop    a part of at least this share of the area (default 0.35), at the size of the whole
    rotate          by up to N degrees (default 15)
    colour          brightness, contrast and saturation by a factor of 1 ± this (default 0.4)
    randaugment     two of fourteen changes at this magnitude of 1 … 10 (default 9)
    mixup, cutmix   two pictures and their labels in shares of Beta(α, α) (default 0.2 and 1)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from training.augment.affine import Affine, ResizedCrop
from training.augment.levels import Colour
from training.augment.mix import CutMix, Mixing, Mixup
from training.augment.move import Crop, Cutout, Flip, Shift
from training.augment.plan import Augmentation, Step
from training.augment.rand import RandAugment
from training.data.facts import DataFacts
from training.errors import describe_unknown
from training.settings.config import ConfigError

AUTO, NONE = "auto", "none"

# A mirrored shoe is a shoe, but a mirrored 2 is no digit. Of a user's own pictures neither is known, so
# they are cropped only.
SUITABLE = {
    "digits": "affine",
    "mnist": "affine",
    "fashion-mnist": "crop,flip,cutout",
    "cifar10": "crop,flip,cutout",
    "cifar100": "crop,flip,cutout",
    "folder": "crop",
    "table": "crop",
    "npz": "crop",
    "synthetic": NONE,
}


@dataclass(frozen=True, kw_only=True)
class Amount:
    """The value that an augmentation takes: what it is, its maximum, and what it is where not given.

    A whole number of pixels defaults to the picture's shorter side divided by `share`.
    """

    text: str
    default: float = 0.0
    maximum: float = math.inf
    share: int = 0

    def read(self, word: str) -> float | None:
        """The value of `word`, or None if it is none."""
        if self.share:
            return int(word) if word.isascii() and word.isdigit() and int(word) > 0 else None
        try:
            value = float(word)
        except ValueError:
            return None
        return value if 0 < value <= self.maximum and value < math.inf else None


def parse_augment(text: str, data: str) -> list[tuple[str, float | None]]:
    """Names in their order, each with its value if given; raises ConfigError for an unknown one."""
    if text == AUTO:
        text = SUITABLE.get(data.partition(":")[0], "affine")
    if text == NONE:
        return []
    chosen: list[tuple[str, float | None]] = []
    if {AUTO, NONE} & set(text.split(",")):
        raise ConfigError(f"augmentations auto and none stand alone, got {text!r}")
    for word in text.split(","):
        name, equals, value = word.partition("=")
        if name not in AMOUNTS:
            raise ConfigError(describe_unknown("augmentation", name, [*AMOUNTS, AUTO, NONE]))
        if name in dict(chosen):
            raise ConfigError(f"augmentation {name} is given twice in {text!r}")
        amount = AMOUNTS[name]
        given = amount.read(value) if amount and equals else None
        if equals and given is None:
            raise ConfigError(
                f"augmentation {name} takes {amount.text if amount else 'no value'}, got {word!r}"
            )
        chosen.append((name, given))
    if {"mixup", "cutmix"} <= dict(chosen).keys():
        raise ConfigError(f"mixup and cutmix both mix the labels: take one of them, got {text!r}")
    return chosen


def choose_augmentation(text: str, data: str, facts: DataFacts) -> Augmentation:
    """The steps that `text` names, for pictures as `facts` says."""
    side = min(facts.input_shape[1:])
    steps, mixing = [], None
    for name, given in parse_augment(text, data):
        amount = AMOUNTS[name]
        value = given
        if amount and value is None:
            value = max(side // amount.share, 1) if amount.share else amount.default
        if amount and amount.share and value is not None and value >= side:
            raise ConfigError(f"augmentation {name}={value} needs pictures larger than {value}, got {side}")
        if name in MIXINGS:
            mixing = MIXINGS[name](value or 0, facts)
        else:
            steps.append(BUILDERS[name](value or 0, facts))
    return Augmentation(tuple(steps), mixing)


def _cutout(side: float, facts: DataFacts) -> Cutout:
    _, height, width = facts.input_shape
    paint = tuple(round(255 * min(max(mean, 0), 1)) for mean in facts.mean)
    return Cutout(side=int(side), height=height, width=width, paint=paint)


PIXELS = "a whole number of pixels"
AMOUNTS: dict[str, Amount | None] = {
    "affine": None,
    "shift": Amount(text=PIXELS, share=8),
    "crop": Amount(text=PIXELS, share=8),
    "flip": None,
    "cutout": Amount(text=PIXELS, share=4),
    "resized-crop": Amount(text="a share of the area, above 0 and at most 1", default=0.35, maximum=1),
    "rotate": Amount(text="degrees, above 0 and at most 180", default=15, maximum=180),
    "colour": Amount(text="a strength above 0 and at most 1", default=0.4, maximum=1),
    "randaugment": Amount(text="a magnitude above 0 and at most 10", default=9, maximum=10),
    "mixup": Amount(text="a positive α", default=0.2),
    "cutmix": Amount(text="a positive α", default=1.0),
}
BUILDERS: dict[str, Callable[[float, DataFacts], Step]] = {
    "affine": lambda value, facts: Affine(),
    "shift": lambda value, facts: Shift(reach=int(value)),
    "crop": lambda value, facts: Crop(reach=int(value)),
    "flip": lambda value, facts: Flip(),
    "cutout": _cutout,
    "resized-crop": lambda value, facts: ResizedCrop(minimum=value),
    "rotate": lambda value, facts: Affine(degrees=value, scale=0, shift=0),
    "colour": lambda value, facts: Colour(strength=value),
    "randaugment": lambda value, facts: RandAugment(magnitude=value),
}
MIXINGS: dict[str, Callable[[float, DataFacts], Mixing]] = {
    "mixup": lambda value, facts: Mixup(alpha=value),
    "cutmix": lambda value, facts: CutMix(
        alpha=value, height=facts.input_shape[1], width=facts.input_shape[2]
    ),
}
