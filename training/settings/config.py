"""What the user may choose for a run; everything here decides the result, nothing else does.

In: flags.  Out: a checked `FitConfig`.  Where it runs and where it writes are not part of it: on one
machine's CPU the same config gives the same weights, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from training.errors import TrainingError, describe_unknown

SCHEDULES = ("one-cycle", "cosine")
EXAMPLES = {"data": "size=64", "net": "depth=20"}
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


class ConfigError(TrainingError):
    """A setting out of range, or one that differs from what the run began with."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of one run; `learning_rate` is the peak of the schedule.

    `data_settings`, `net_settings` and `augment` are words as typed: only those who take them know what they
    mean. `ema` and `clip_gradient` are off at 0.
    """

    data: str = "digits"
    data_settings: dict[str, str] = field(default_factory=dict)
    augment: str = "auto"
    net: str = "small-cnn"
    net_settings: dict[str, str] = field(default_factory=dict)
    epochs: int = 16
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 2e-3
    seed: int = 0
    schedule: str = "one-cycle"
    label_smoothing: float = 0.0
    clip_gradient: float = 0.0
    ema: float = 0.0
    precision: str = "auto"
    compile: bool = False
    deterministic: bool = False
    positive_gamma: bool = False
    recalibrate_bn: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"epochs must be at least 1, got {self.epochs}")
        if self.batch_size < 2:
            raise ConfigError(
                f"batch_size must be at least 2, because BatchNorm needs a variance, got {self.batch_size}"
            )
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        if not 0 < self.momentum < 1:
            raise ConfigError(f"momentum must lie between 0 and 1, got {self.momentum}")
        if not 0 <= self.weight_decay < float("inf"):
            raise ConfigError(f"weight_decay must be zero or positive, got {self.weight_decay}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must lie in 0 .. 2⁶³−1, got {self.seed}")
        if self.schedule not in SCHEDULES:
            raise ConfigError(describe_unknown("schedule", self.schedule, SCHEDULES))
        if self.precision not in PRECISIONS:
            raise ConfigError(describe_unknown("precision", self.precision, PRECISIONS))
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing must lie in 0 .. 1, below 1, got {self.label_smoothing}")
        if not 0 <= self.clip_gradient < float("inf"):
            raise ConfigError(f"clip_gradient must be zero or positive, got {self.clip_gradient}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must lie in 0 .. 1, below 1, got {self.ema}")
        if self.recalibrate_bn < 0:
            raise ConfigError(f"recalibrate_bn must be zero or positive, got {self.recalibrate_bn}")


def split_settings(of: str, texts: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` for each setting `of` the net or the data, each once."""
    words: dict[str, str] = {}
    for text in texts:
        name, equals, word = text.partition("=")
        if not (name and equals and word):
            raise ConfigError(f"a {of} setting must be NAME=VALUE, such as {EXAMPLES[of]}, got {text!r}")
        if name in words:
            raise ConfigError(f"{of} setting {name} is given twice, as {words[name]} and as {word}")
        words[name] = word
    return words
