"""A few digits and a small net, for tests of the loop."""

from dataclasses import replace
from functools import lru_cache

from torch import nn

from training.data import Split, load_split
from training.loop.chance import seeded_generator
from training.nets import build_net, initialize, settings_for


@lru_cache(maxsize=1)
def few_digits() -> Split:
    """334 to train on, 100 held out."""
    digits = load_split("digits")
    return replace(
        digits,
        train_pixels=digits.train_pixels[::12],
        train_labels=digits.train_labels[::12],
        held_out_pixels=digits.held_out_pixels[::10],
        held_out_labels=digits.held_out_labels[::10],
    )


def fresh_net(split: Split, seed: int = 0) -> nn.Module:
    """A `cnn` with few channels: blocks.1, blocks.5 and head.1 are its BatchNorms."""
    net = build_net("cnn", settings_for("cnn", split.facts) | {"channels": (4, 8), "hidden": 16})
    initialize(net, seeded_generator(seed, "weights"))
    return net
