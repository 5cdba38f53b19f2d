"""Experiments reach the verdicts which their results call for, and count what they say they count."""

import math

import pytest

from study.experiments import EXPERIMENTS
from study.experiments.convergence import steps_to
from study.experiments.learning_rate import largest_that_trains
from study.experiments.surface import rise
from study.experiments.tuning import final_loss, tune
from study.minima import Minima
from study.scale import TUNING_SEEDS
from study_kit import a_walk, planted, tiny_scale


def test_steps_are_counted_to_the_first_smoothed_loss_below_the_target():
    losses = [2.0] * 10 + [0.0] * 10
    assert steps_to(1.0, {"losses": losses}, 300) == 15
    assert steps_to(1.01, {"losses": losses}, 300) == 15
    assert steps_to(0.99, {"losses": losses}, 300) == 16
    assert steps_to(-1.0, {"losses": losses}, 300) == 300
    assert steps_to(1.0, {"losses": [2.0] * 4}, 300) == 300, "it ended early"


def test_the_largest_rate_that_trains_may_have_failures_below_it():
    rates = (0.25, 0.5, 1.0, 2.0)
    assert largest_that_trains(rates, [3, 1, 3, 1], 1) == 2.0
    assert largest_that_trains(rates, [1, 1, 3, math.inf], 1) == 0.5
    assert largest_that_trains(rates, [3, 3, 3, math.inf], 1) == 0.125


def test_a_run_that_ended_early_has_no_final_loss():
    assert final_loss({"losses": [9.0] * 10 + [1.0] * 20, "finished": True}) == 1.0
    assert final_loss({"losses": [1.0] * 20, "finished": False}) == math.inf


def test_the_rise_is_over_the_points_within_the_radius():
    surface = [[9, 2, 9], [3, 1, 4], [9, 5, 9]]
    result = {"axis": [-0.5, 0.0, 0.5], "surfaces": {"batch": surface}}
    assert rise(result, "batch") == (2 + 3 + 4 + 5) / 4 - 1


def test_rates_are_tuned_with_seeds_that_measure_nothing_else():
    seen = []

    def tell(cell):
        seen.append(cell.seed)
        return {"losses": [abs(cell.learning_rate - 0.5) + cell.seed % 2] * 20}

    assert tune(tiny_scale(), planted(tell), (0.25, 0.5, 1.0), norm="none", steps=20) == 0.5
    assert set(seen) == set(TUNING_SEEDS)
    assert not set(TUNING_SEEDS) & set(tiny_scale().seeds)


def verdicts(name: str, tell, **changes) -> list[str]:
    return [
        each.verdict
        for each in EXPERIMENTS[name](tiny_scale(**{"steps": 40} | changes), planted(tell)).claims
    ]


def favouring(norms: set[str], near: float):
    """Runs of these norms are right and quick; all others guess."""

    def tell(cell):
        is_good = cell.norm in norms
        accuracy = (near if is_good else 0.1) + 0.001 * (cell.seed % 7)
        losses = [0.01 if is_good and step > 5 else 2.3 for step in range(cell.steps)]
        return {"held_out_accuracy": accuracy, "recalibrated_held_out_accuracy": accuracy, "losses": losses}

    return tell


HELD, FAILED = "held", "did not hold"


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize(
    ("name", "good", "expected"),
    [
        ("convergence", {"before"}, [HELD, HELD, HELD]),
        ("convergence", {"none"}, [FAILED, FAILED, FAILED]),
        ("convergence", {"before", "none"}, [FAILED, FAILED, FAILED]),
        ("learning-rate", {"before"}, [HELD]),
        ("learning-rate", {"none"}, [FAILED]),
        ("depth", {"before"}, [HELD, FAILED, HELD, HELD, HELD]),
        ("depth", {"none"}, [FAILED, FAILED, HELD, HELD, HELD]),
        ("initialisation", {"before"}, [HELD]),
        ("initialisation", {"none"}, [FAILED]),
        ("order", {"before"}, [HELD, FAILED]),
        ("order", {"after"}, [FAILED, HELD]),
        ("order", {"before", "after"}, [FAILED, HELD]),
    ],
)
def test_planted_results_decide_each_claim_both_ways(name, good, expected):
    changes = {"rate_exponents": (-6, -4, -2)} if name == "learning-rate" else {}
    assert verdicts(name, favouring(good, 0.9), **changes) == expected


def falling_by(decades: float, norm: str):
    """Gradients of one net that change by so many decades from the last Conv to the first."""

    def tell(cell):
        depth = cell.net_settings["depth"]
        norms = [10 ** (decades * (1 - layer / (depth - 2))) for layer in range(depth - 1)]
        return {"gradients": {"0": [*norms, 7.0], "100": [1.0] * depth}} if cell.norm == norm else {}

    return tell


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize(
    ("decades", "norm", "expected"),
    [
        (-3, "none", [HELD, HELD, HELD, HELD]),
        (-3, "before", [FAILED, FAILED, FAILED, HELD]),
        (+3, "before", [FAILED, HELD, FAILED, HELD]),
    ],
)
def test_planted_gradients_decide_what_vanishes(decades, norm, expected):
    assert verdicts("depth", falling_by(decades, norm))[1:] == expected


def by_batch(**accuracies: float):
    """BatchNorm with batches of two rows does this; everything else is at 0.9."""

    def tell(cell):
        usual = dict.fromkeys(
            (
                "train_mode_accuracy",
                "eval_mode_accuracy",
                "held_out_accuracy",
                "recalibrated_held_out_accuracy",
            ),
            0.9,
        )
        is_small = cell.norm == "before" and (cell.batch_size == 2 or cell.rows_per_device == 4)
        return usual | (accuracies if is_small else {})

    return tell


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize(
    ("accuracies", "of_batches", "of_devices"),
    [
        ({}, [FAILED, FAILED, FAILED], [FAILED, HELD]),
        ({"held_out_accuracy": 0.7}, [HELD, FAILED, HELD], [HELD, HELD]),
        (
            {"held_out_accuracy": 0.7, "recalibrated_held_out_accuracy": 0.7},
            [HELD, FAILED, FAILED],
            [HELD, FAILED],
        ),
        ({"train_mode_accuracy": 0.8}, [FAILED, HELD, FAILED], [FAILED, HELD]),
        ({"train_mode_accuracy": 0.99}, [FAILED, HELD, FAILED], [FAILED, HELD]),
    ],
)
def test_planted_small_batches_decide_what_hurts_and_what_repairs(accuracies, of_batches, of_devices):
    assert verdicts("batch-size", by_batch(**accuracies)) == of_batches
    assert verdicts("devices", by_batch(**accuracies)) == of_devices


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize(("cost", "expected"), [(0.0, HELD), (0.004, HELD), (0.02, FAILED), (-0.02, HELD)])
def test_a_planted_cost_of_positive_gammas_is_found(cost, expected):
    def tell(cell):
        return {"held_out_accuracy": 0.9 - cost * cell.positive_gamma}

    assert set(verdicts("positive-gamma", tell)) == {expected}


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize(("steep", "expected"), [("none", HELD), ("before", FAILED), ("neither", FAILED)])
def test_a_planted_steep_surface_is_found(steep, expected):
    def tell(cell):
        if not hasattr(cell, "run"):
            return {}
        rise = (4.0 if cell.run.norm == steep else 1.0) + 0.01 * cell.run.seed
        surface = [[0.1 + rise * (row != 1 or column != 1) for column in range(3)] for row in range(3)]
        return {"surfaces": {"batch": surface, "running": surface}}

    assert set(verdicts("surface", tell)) == {expected}


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize(
    ("between", "from_initial", "expected"),
    [(0.0, 0.0, [FAILED, HELD]), (1.0, 0.0, [HELD, HELD]), (0.0, 1.0, [FAILED, FAILED])],
)
def test_planted_barriers_are_found(between, from_initial, expected):
    def tell(cell):
        return a_walk(cell, between, from_initial) if isinstance(cell, Minima) else {}

    assert verdicts("minima", tell) == 2 * expected


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize(
    ("shares", "good", "expected"),
    [
        ({"none": 0.5}, {"before"}, [HELD, HELD]),
        ({"before": 0.5}, {"none"}, [FAILED, FAILED]),
        ({}, {"before", "none"}, [FAILED, FAILED]),
    ],
)
def test_planted_saturation_is_found(shares, good, expected):
    tell_accuracy = favouring(good, 0.9)

    def tell(cell):
        share = shares.get(cell.norm, 0.0) + 0.001 * (cell.seed % 7)
        return tell_accuracy(cell) | {"saturation": {"0": [0.0], str(cell.steps): [share] * 7}}

    assert verdicts("saturation", tell) == 2 * expected


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize(
    ("rare", "expected"),
    [
        ({"before": 0.9, "none": 0.9}, [FAILED, FAILED]),
        ({"before": 0.5, "none": 0.9}, [HELD, FAILED]),
        ({"before": 0.9, "none": 0.5}, [FAILED, HELD]),
    ],
)
def test_planted_recalls_of_rare_classes_are_found(rare, expected):
    def tell(cell):
        is_unequal = len(set(cell.class_counts)) > 1
        return {"recalls": [0.9] * 5 + [rare[cell.norm] if is_unequal else 0.9] * 5}

    assert verdicts("imbalance", tell) == expected
