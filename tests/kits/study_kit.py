"""A study so small that all of it takes seconds, and results that say what a test wants them to."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from study import rows, scale
from study.experiments import tuning
from study.minima import INITIAL, OPTIMIZERS, Minima
from study.scale import TUNING_SEEDS, Scale
from study.short_run import ShortRun
from training.data import DATA_SETS
from training_kit import tiny_split

TINY: dict[str, Any] = {
    "looks": (2,),
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
    "slice_steps": 6,
    "slice_points": 5,
    "line_points": 3,
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
    patch.setattr(tuning, "TUNING_SEEDS", TUNING_SEEDS[:1])  # half of the runs
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
    if isinstance(cell, Minima):
        return a_walk(cell)
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
        "saturation": {"0": [0.0] * 7},
        "recalls": [accuracy] * 10,
        "gammas": 10,
        "gammas_below_zero": 0,
        "gammas_at_floor": 0,
    }


def a_walk(cell: Minima, between: float = 0.0, from_initial: float = 0.0) -> dict[str, Any]:
    """Minima at a loss of 0.1 with barriers of these heights between them, and on the way to them."""
    names = (INITIAL, *OPTIMIZERS)
    lines = {
        f"{one}-{other}": [2.3, 2.3 + from_initial, 0.1] if one == INITIAL else [0.1, 0.1 + between, 0.1]
        for one, other in itertools.combinations(names, 2)
    }
    axis, places = [-1.0, 0.0, 1.0], {name: [0.1 * at, 0.2] for at, name in enumerate(names)}
    plane = {"x": axis, "y": axis, "surface": [[0.1, 1.0, 2.0]] * 3, "places": places, "off_plane": 9.0}
    return {
        "finished": True,
        "accuracies": dict.fromkeys(OPTIMIZERS, 0.9),
        "lines": lines,
        "plane": plane if cell.points else None,
    }
