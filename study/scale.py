"""How much is measured: the whole study, and the quick one.

In: flags.  Out: a checked `Scale`; every number that decides how long a study takes is here.
"""

from dataclasses import dataclass, fields

from study.claims import MAX_SEEDS, MIN_SEEDS
from training.settings.config import ConfigError

TUNING_SEEDS = (1_000, 1_001)  # learning rates are chosen with them, and nothing else is measured with them


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Batches hold 32 rows unless an experiment varies that; `depths`, `batch_sizes` … rise."""

    data: str = "digits"
    num_rows: int = 4000
    seeds: tuple[int, ...] = tuple(range(5))
    steps: int = 300
    rate_exponents: tuple[int, ...] = tuple(range(-9, 4))
    tuning_exponents: tuple[int, ...] = tuple(range(-8, 0))
    depths: tuple[int, ...] = (8, 20, 38, 56)
    depth_steps: int = 200
    init_scales: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    batch_sizes: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128, 256)
    batch_rows: int = 8192
    rows_per_device: tuple[int, ...] = (2, 4, 8, 16)
    slice_nets: tuple[str, ...] = ("vgg", "nin")
    slice_points: int = 15
    gamma_nets: tuple[str, ...] = ("cnn", "preact-resnet")
    gamma_steps: int = 400

    def __post_init__(self) -> None:
        if not MIN_SEEDS <= len(self.seeds) <= MAX_SEEDS:
            raise ConfigError(f"seeds must lie in {MIN_SEEDS} .. {MAX_SEEDS}, got {len(self.seeds)}")
        if self.num_rows < (minimum := 2 * max(self.batch_sizes)):
            raise ConfigError(
                f"rows must be at least {minimum}, two of the largest batches, got {self.num_rows}"
            )

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates among which the largest that trains is sought."""
        return tuple(2.0**exponent for exponent in self.rate_exponents)

    @property
    def tuning_rates(self) -> tuple[float, ...]:
        """The learning rates among which the best is sought."""
        return tuple(2.0**exponent for exponent in self.tuning_exponents)


QUICK = {
    "seeds": tuple(range(3)),
    "steps": 200,
    "rate_exponents": tuple(range(-9, 4, 2)),
    "tuning_exponents": (-7, -5, -3, -1),
    "depths": (8, 20, 56),
    "depth_steps": 120,
    "batch_sizes": (2, 8, 32, 256),
    "batch_rows": 6144,
    "rows_per_device": (2, 8),
    "slice_nets": ("vgg",),
    "slice_points": 11,
    "gamma_steps": 200,
}


def describe_left_out(scale: Scale) -> list[str]:
    """What `scale` does less of than the whole study, a line for each."""
    lines = []
    for field in fields(Scale):
        has, could = getattr(scale, field.name), field.default
        if has != could and field.name not in ("data", "num_rows", "seeds"):
            lines.append(f"{field.name.replace('_', ' ')}: {_in_words(has)} instead of {_in_words(could)}")
    return lines


def _in_words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
