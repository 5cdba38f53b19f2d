"""How much is measured: the whole study, and the quick one.

In: flags.  Out: a checked `Scale`; every number that decides how long a study takes is here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from study.claims import LOOKS, MAX_SEEDS, MIN_SEEDS
from training.settings.config import ConfigError

TUNING_SEEDS = (1_000, 1_001)  # learning rates are chosen with them, and nothing else is measured with them
FIRST_SEED = 100  # those below served to design the study


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Batches hold 32 rows unless an experiment varies that; `depths`, `batch_sizes` … rise."""

    data: str = "digits"
    num_rows: int = 2000
    looks: tuple[int, ...] = LOOKS
    look: int = 0
    steps: int = 300
    rate_exponents: tuple[int, ...] = tuple(range(-8, 3, 2))
    tuning_exponents: tuple[int, ...] = tuple(range(-7, 0))
    depths: tuple[int, ...] = (8, 20, 32)
    depth_steps: int = 250
    init_scales: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    batch_sizes: tuple[int, ...] = (2, 4, 8, 32, 128, 256)
    batch_rows: int = 4096
    rows_per_device: tuple[int, ...] = (2, 4, 8, 16)
    slice_nets: tuple[str, ...] = ("vgg", "nin")
    slice_steps: int = 400
    slice_points: int = 13
    line_points: int = 21
    gamma_nets: tuple[str, ...] = ("cnn", "preact-resnet")
    gamma_steps: int = 500
    class_ratio: int = 20

    def __post_init__(self) -> None:
        if not MIN_SEEDS <= self.looks[-1] <= MAX_SEEDS:
            raise ConfigError(f"seeds must lie in {MIN_SEEDS} .. {MAX_SEEDS}, got {self.looks[-1]}")
        if self.num_rows < (minimum := 2 * max(self.batch_sizes)):
            raise ConfigError(
                f"rows must be at least {minimum}, two of the largest batches, got {self.num_rows}"
            )

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of this look."""
        return tuple(range(FIRST_SEED, FIRST_SEED + self.looks[self.look]))

    @property
    def num_before(self) -> int:
        """How many seeds the look before this one had; none before the first."""
        return self.looks[self.look - 1] if self.look else 0

    @property
    def first(self) -> "Scale":
        """The first look, with the fewest seeds: for what a plot shows and no claim compares."""
        return replace(self, look=0)

    def each_look(self) -> Iterator["Scale"]:
        """The same with more and more seeds; each look has those of the one before."""
        return (replace(self, look=look) for look in range(len(self.looks)))

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates among which the largest that trains is sought."""
        return tuple(2.0**exponent for exponent in self.rate_exponents)

    @property
    def tuning_rates(self) -> tuple[float, ...]:
        """The learning rates among which the best is sought."""
        return tuple(2.0**exponent for exponent in self.tuning_exponents)


QUICK = {
    "looks": (3,),
    "steps": 200,
    "rate_exponents": tuple(range(-6, 4, 3)),
    "tuning_exponents": (-7, -5, -3, -1),
    "depths": (8, 32),
    "depth_steps": 120,
    "batch_sizes": (2, 8, 32, 256),
    "batch_rows": 3072,
    "rows_per_device": (2, 8),
    "slice_nets": ("vgg",),
    "slice_steps": 200,
    "slice_points": 9,
    "line_points": 11,
    "gamma_steps": 200,
}


def looks_up_to(num_seeds: int) -> tuple[int, ...]:
    """As many looks as usual, or fewer, the last one with `num_seeds`."""
    return (*(look for look in LOOKS[:-1] if look < num_seeds), num_seeds)


def describe_left_out(scale: Scale) -> list[str]:
    """What `scale` does less of than the whole study, a line for each."""
    lines = []
    for field in fields(Scale):
        has, could = getattr(scale, field.name), field.default
        if has != could and field.name not in ("data", "num_rows", "looks", "look"):
            lines.append(f"{field.name.replace('_', ' ')}: {_in_words(has)} instead of {_in_words(could)}")
    return lines


def _in_words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
