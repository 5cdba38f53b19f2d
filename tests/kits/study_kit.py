"""A study so small that all of it takes seconds, and results that say what a test wants them to."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from study import rows, scale
from study.scale import Scale
from study.short_run import ShortRun
from training.data import DATA_SETS
from training_kit import tiny_split

TINY: dict[str, Any] = {
    "seeds": (0, 1),
    "steps": 10,
    "rate_exponents": (-6, -4),
    "tuning_exponents": (-5,),
    "depths": (8, 14),
    "depth_steps": 4,
    "init_scales": (0.3, 1.0),
    "batch_sizes": (2, 32),
    "batch_rows": 128,
    "rows_per_device": (4, 16),
    "slice_nets": ("vgg",),
    "slice_points": 5,
    "gamma_steps": 3,
}
NUM_ROWS = 200


def tiny_scale(**changes: Any) -> Scale:
    return Scale(data="tiny", num_rows=NUM_ROWS, **TINY | changes)


def use_tiny_data(patch: pytest.MonkeyPatch) -> None:
    """`--data tiny --quick` is the tiny study."""
    split = tiny_split()
    patch.setitem(DATA_SETS, "tiny", lambda: split)
    patch.setattr(scale, "QUICK", TINY)
    rows.load_rows.cache_clear()
    rows._load_once.cache_clear()


def a_run(**changes: Any) -> ShortRun:
    settings = {
        "data": "tiny",
        "num_rows": NUM_ROWS,
        "seed": 0,
        "steps": 3,
        "learning_rate": 0.05,
        "norm": "before",
    }
    return ShortRun(**settings | {"net_settings": {"depth": 8, "width": 4}} | changes)


def planted(tell: Callable[[Any], dict[str, Any]]) -> Callable[[Sequence[Any]], list[dict[str, Any]]]:
    """A `measure` that answers `tell(cell)`, over results that say nothing."""

    def measure(cells: Sequence[Any]) -> list[dict[str, Any]]:
        return [nothing(cell) | tell(cell) for cell in cells]

    return measure


def nothing(cell: Any) -> dict[str, Any]:
    """A run that guesses; each seed a little differently."""
    if not isinstance(cell, ShortRun):
        return {"finished": True, "axis": [-0.5, 0.0, 0.5]}
    accuracy = 0.1 + 0.001 * (cell.seed % 7)
    return {
        "losses": [2.3] * cell.steps,
        "finished": True,
        "gradients": {step: [1.0] * cell.net_settings.get("depth", 8) for step in ("0", "100")},
        "train_mode_accuracy": accuracy,
        "eval_mode_accuracy": accuracy,
        "held_out_accuracy": accuracy,
        "recalibrated_eval_mode_accuracy": accuracy,
        "recalibrated_held_out_accuracy": accuracy,
        "gammas": 10,
        "gammas_below_zero": 0,
        "gammas_at_floor": 0,
    }
