"""How pixels become numbers: the mean and std that travel with a net.

In: the facts of a data set, and what the user asks for.  Out: facts with another mean and std.

    row = (pixel / 255 − mean) / std
    z-score       of the train half, or as given
    min-max       mean 0, std 1: 0 … 1
    per-picture   the same; the net does the rest (nets/variant.py)
    none          mean 0, std 1/255: 0 … 255
"""

import math
from dataclasses import replace

from training.data.split import Split
from training.settings.config import ConfigError, FitConfig


def normalised(split: Split, config: FitConfig) -> Split:
    """The split with the mean and std that `config` asks for; ConfigError for numbers that do not fit."""
    channels = len(split.facts.mean)
    if config.normalise != "z-score":
        std = 1 / 255 if config.normalise == "none" else 1.0
        return with_statistics(split, [0.0] * channels, [std] * channels)
    if not config.mean:
        return split
    return with_statistics(
        split, read_numbers("mean", config.mean, channels), read_numbers("std", config.std, channels)
    )


def with_statistics(split: Split, mean: list[float], std: list[float]) -> Split:
    """The split with another mean and std, one of each for each channel."""
    return replace(split, facts=replace(split.facts, mean=mean, std=std))


def read_numbers(name: str, text: str, channels: int) -> list[float]:
    """`0.5` or `0.485,0.456,0.406` as a number for each channel; one alone counts for all."""
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    values = values * channels if len(values) == 1 else values
    if len(values) != channels or not all(math.isfinite(value) for value in values):
        expected = f"{channels} numbers with commas between" if channels > 1 else "one number"
        raise ConfigError(f"{name} must be {expected}, got {text}")
    if name == "std" and min(values) <= 0:
        raise ConfigError(f"std must be positive, got {text}")
    return values


def is_chosen(config: FitConfig) -> bool:
    """Whether the user asked for a normalisation: then that of a fine-tuned source does not count."""
    return config.normalise != "z-score" or bool(config.mean)
