"""The values of `--augment`: names with commas between, `none`, or `auto` for what suits the data set.

In: `crop,flip` or `crop=4,cutout=8`, and the facts of the data.  Out: an `Augmentation`.

    affine          turn, scale and shift a little, as a hand would
    shift, crop     by up to N pixels (default: an eighth of the shorter side), black or mirrored at the edge
    flip            left to right, every second picture
    cutout          a square of N × N pixels (default: a quarter of the shorter side) in the mean colour
"""

from collections.abc import Callable

from training.augment.affine import Affine
from training.augment.cutout import Cutout
from training.augment.move import Crop, Flip, Shift
from training.augment.plan import Augmentation, Step
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
    "npz": "crop",
    "synthetic": NONE,
}

SHARES = {"shift": 8, "crop": 8, "cutout": 4}


def parse_augment(text: str, data: str) -> list[tuple[str, int | None]]:
    """Names in their order, each with its pixels if given; raises ConfigError for an unknown one."""
    if text == AUTO:
        text = SUITABLE.get(data.partition(":")[0], "affine")
    if text == NONE:
        return []
    chosen: list[tuple[str, int | None]] = []
    for word in text.split(","):
        name, equals, pixels = word.partition("=")
        if name not in BUILDERS:
            raise ConfigError(describe_unknown("augmentation", name, [*BUILDERS, AUTO, NONE]))
        if name in dict(chosen):
            raise ConfigError(f"augmentation {name} is given twice in {text!r}")
        if equals and not (name in SHARES and pixels.isascii() and pixels.isdigit() and int(pixels) > 0):
            what = "a whole number of pixels" if name in SHARES else "no value"
            raise ConfigError(f"augmentation {name} takes {what}, got {word!r}")
        chosen.append((name, int(pixels) if equals else None))
    return chosen


def choose_augmentation(text: str, data: str, facts: DataFacts) -> Augmentation:
    """The steps that `text` names, for pictures as `facts` says."""
    side = min(facts.input_shape[1:])
    steps = []
    for name, given in parse_augment(text, data):
        pixels = given if given is not None else max(side // SHARES.get(name, side), 1)
        if name in SHARES and pixels >= side:
            raise ConfigError(f"augmentation {name}={pixels} needs pictures larger than {pixels}, got {side}")
        steps.append(BUILDERS[name](pixels, facts))
    return Augmentation(tuple(steps))


def _cutout(side: int, facts: DataFacts) -> Cutout:
    _, height, width = facts.input_shape
    paint = tuple(round(255 * mean) for mean in facts.mean)
    return Cutout(side=side, height=height, width=width, paint=paint)


BUILDERS: dict[str, Callable[[int, DataFacts], Step]] = {
    "affine": lambda pixels, facts: Affine(),
    "shift": lambda pixels, facts: Shift(reach=pixels),
    "crop": lambda pixels, facts: Crop(reach=pixels),
    "flip": lambda pixels, facts: Flip(),
    "cutout": _cutout,
}
