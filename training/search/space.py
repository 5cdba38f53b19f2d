"""What is searched for, and within which bounds.

In: a trial of Optuna, and the fixed settings.  Out: settings as `python -m training` takes them.

    learning rate    1e-3 … 1        by its logarithm; 1e-5 … 1e-2 for any optimizer but sgd
    momentum         0.8 … 0.98      by the logarithm of 1 − momentum: 0.98 remembers ten times as long as 0.8
    weight decay     1e-5 … 1e-2     by its logarithm
    batch size       32, 64, 128, 256, as far as an epoch has MIN_STEPS of them; else training's own
    optimizer, schedule              all of them, only with --choose
    width            ½, 1, 2 times what the net has in each of WIDTHS

Numbers are rounded to three digits before anything is trained with them, so that the command that is printed
says exactly what was tried.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Trial

from training.loop.batches import MIN_STEPS, default_batch_size
from training.nets import NETS
from training.nets.foreign.build import is_foreign
from training.settings.config import OPTIMIZERS, SCHEDULES

BATCH_SIZES, FACTORS = (32, 64, 128, 256), (0.5, 1.0, 2.0)
WIDTHS = ("width", "channels", "hidden", "growth", "stem", "last")
CHOSEN = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}
NAMES = ("learning_rate", "momentum", "weight_decay", "batch_size")


def suggest(
    trial: Trial,
    fixed: Mapping[str, Any],
    batch_sizes: Sequence[int],
    factors: Sequence[float],
    chosen: Sequence[str] = (),
) -> tuple[dict[str, Any], float]:
    """A value of each setting that is not fixed, and a factor on the net's width."""
    found: dict[str, Any] = {
        name: trial.suggest_categorical(name, list(known)) for name, known in CHOSEN.items() if name in chosen
    }
    if "learning_rate" not in fixed:
        # Adam and the like step by the rate itself, whatever the gradient: a range of their own.
        is_sgd = found.get("optimizer", fixed.get("optimizer", "sgd")) == "sgd"
        lowest, highest = (1e-3, 1.0) if is_sgd else (1e-5, 1e-2)
        name = "learning_rate" if is_sgd else "adaptive learning_rate"
        found["learning_rate"] = rounded(trial.suggest_float(name, lowest, highest, log=True))
    if "momentum" not in fixed:
        found["momentum"] = rounded(1 - trial.suggest_float("1 - momentum", 0.02, 0.2, log=True))
    if "weight_decay" not in fixed:
        found["weight_decay"] = rounded(trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True))
    if "batch_size" not in fixed:
        found["batch_size"] = trial.suggest_categorical("batch_size", list(batch_sizes))
    factor = factors[0] if len(factors) == 1 else trial.suggest_categorical("width", list(factors))
    return found, factor


def batch_sizes_for(num_rows: int) -> list[int]:
    """Sizes to draw from: with a batch of nearly all rows an epoch is one step, and no rate looks good."""
    fitting = [size for size in BATCH_SIZES if MIN_STEPS * size <= num_rows]
    return fitting or [default_batch_size(num_rows)]


def rounded(value: float) -> float:
    """Three digits."""
    return float(f"{value:.3g}")


def has_width(net: str) -> bool:
    """Whether `net` has settings that a factor can be put on."""
    return not is_foreign(net) and any(name in WIDTHS for name in width_settings(net))


def width_settings(net: str) -> dict[str, Any]:
    """The net's own settings of WIDTHS, with their defaults."""
    fields = NETS[net][0].__dataclass_fields__
    return {name: field.default for name, field in fields.items() if name in WIDTHS}


def widen(net: str, given: Mapping[str, Any], factor: float) -> dict[str, str]:
    """Words for `--net-setting`: each width, as given or by default, times `factor`; never below 1."""
    if factor == 1.0:
        return {}
    words = {}
    for name, default in width_settings(net).items():
        values = given.get(name, default)
        many = values if isinstance(values, tuple) else (values,)
        words[name] = ",".join(str(max(1, round(factor * value))) for value in many)
    return words
