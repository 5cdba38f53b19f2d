"""One rule for all claims, and experiments that reach the verdicts which their results call for."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.claims import (
    FACTOR,
    LEVEL,
    LOOKS,
    NEGATIVE_DECADES,
    POINTS,
    Claim,
    difference,
    doublings,
    half_width,
    student_t,
)
from study.experiments import EXPERIMENTS
from study.experiments.convergence import steps_to
from study.experiments.learning_rate import largest_that_trains
from study.experiments.surface import rise
from study.experiments.tuning import final_loss, tune
from study.lab import StudyError
from study.minima import Minima
from study.report import measured
from study.scale import TUNING_SEEDS
from study_kit import a_walk, planted, tiny_scale, use_tiny_data


def claim(*values: float, margin: float = 0.0) -> Claim:
    return Claim(text="", measured_by="", values=values, margin=margin, unit=POINTS)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 19, 20, 99])
def test_the_quantiles_are_students(freedom):
    """The share `level` of the density lies within ±t."""
    constant = math.gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)
    for level in (0.95, LEVEL):
        quantile = student_t(freedom, level)
        t = np.linspace(-quantile, quantile, 100_001)
        density = constant * (1 + t**2 / freedom) ** (-(freedom + 1) / 2)
        assert np.trapezoid(density, t) == pytest.approx(level, abs=1e-6)
    assert student_t(freedom) > student_t(freedom + 1)
    assert student_t(4, 0.95) == pytest.approx(2.776, abs=5e-4), "as tables have it"


def test_three_looks_err_no_more_often_than_one():
    """Of true means at the margin, whatever look ends the experiment, at most 5 % are decided wrongly."""
    assert len(LOOKS) * (1 - LEVEL) == pytest.approx(0.05)
    chance, wrong = np.random.default_rng(0), 0
    for _ in range(1000):
        values = chance.normal(size=LOOKS[-1])
        looks = [claim(*values[:count]).verdict for count in LOOKS]
        wrong += any(verdict != "not decided" for verdict in looks)
    assert wrong <= 50


@pytest.mark.parametrize(
    ("values", "margin", "verdict"),
    [
        ((0.05, 0.06, 0.07), 0.01, "held"),
        ((0.05, 0.06, 0.07), 0.02, "not decided"),
        ((0.05, 0.06, 0.07), 0.1, "not decided"),
        ((0.05, 0.06, 0.07), 0.11, "did not hold"),
        ((-0.05, -0.06, -0.07), 0.0, "did not hold"),
        ((0.0, 0.0), -0.005, "held"),
        ((0.01, 0.01), 0.01, "did not hold"),
        ((-1.0, 1.0), 0.0, "not decided"),
    ],
)
def test_the_rule(values, margin, verdict):
    """0.06 ± 7.649 · 0.01 / √3 is 0.016 … 0.104."""
    assert claim(*values, margin=margin).verdict == verdict


numbers = st.lists(st.integers(-1000, 1000).map(float), min_size=2, max_size=21)


@given(numbers, st.integers(-1000, 1000), st.randoms())
def test_a_claim_and_its_opposite_never_both_hold(values, margin, chance):
    one = claim(*values, margin=margin)
    other = claim(*(-value for value in values), margin=-margin)
    assert (one.verdict == "not decided") <= (
        other.verdict == "not decided" or min(other.interval) == -margin
    )
    if one.verdict == "held":
        assert other.verdict == "did not hold"
    shuffled = chance.sample(values, len(values))
    assert claim(*shuffled, margin=margin).verdict == one.verdict


def test_twice_the_seeds_with_the_same_spread_say_more():
    assert half_width([1, 2, 3, 1, 2, 3]) < half_width([1, 2, 3]) / 1.4


@pytest.mark.parametrize("count", [1, 101])
def test_too_few_and_too_many_seeds_are_refused(count):
    with pytest.raises(StudyError, match=rf"seeds must lie in 2 \.\. 100, got {count}"):
        half_width([0.0] * count)


def test_pairs_are_taken_seed_by_seed():
    assert difference([3, 5], [1, 1]) == (2, 4)
    assert doublings([8, 2], [2, 4]) == (2, -1)
    with pytest.raises(ValueError):
        difference([1, 2], [1])


def test_numbers_are_shown_in_their_units():
    assert measured(replace(claim(1.0, 1.0, margin=0.5), unit=FACTOR)) == [
        "> 1.41 ×",
        "2",
        "2.00 ×",
        "2.00 × … 2.00 ×",
        "–",
        "**held**",
    ]
    falling = Claim(text="", measured_by="", values=(1.9, 2.1), margin=1.0, unit=NEGATIVE_DECADES)
    assert measured(falling) == ["< 10^-1.0", "2", "10^-2.0", "10^-5.8 … 10^+1.8", "-14.1", "not decided"]
    assert measured(claim(0.01, 0.02)) == [
        "> +0.0 points",
        "2",
        "+1.5 points",
        "-17.6 points … +20.6 points",
        "+2.1",
        "not decided",
    ]


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


@pytest.fixture
def _tiny_data(monkeypatch):
    use_tiny_data(monkeypatch)


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


@pytest.mark.usefixtures("_tiny_data")
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


@pytest.mark.usefixtures("_tiny_data")
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


@pytest.mark.usefixtures("_tiny_data")
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


@pytest.mark.usefixtures("_tiny_data")
@pytest.mark.parametrize(("cost", "expected"), [(0.0, HELD), (0.004, HELD), (0.02, FAILED), (-0.02, HELD)])
def test_a_planted_cost_of_positive_gammas_is_found(cost, expected):
    def tell(cell):
        return {"held_out_accuracy": 0.9 - cost * cell.positive_gamma}

    assert set(verdicts("positive-gamma", tell)) == {expected}


@pytest.mark.usefixtures("_tiny_data")
@pytest.mark.parametrize(("steep", "expected"), [("none", HELD), ("before", FAILED), ("neither", FAILED)])
def test_a_planted_steep_surface_is_found(steep, expected):
    def tell(cell):
        if not hasattr(cell, "run"):
            return {}
        rise = (4.0 if cell.run.norm == steep else 1.0) + 0.01 * cell.run.seed
        surface = [[0.1 + rise * (row != 1 or column != 1) for column in range(3)] for row in range(3)]
        return {"surfaces": {"batch": surface, "running": surface}}

    assert set(verdicts("surface", tell)) == {expected}


@pytest.mark.usefixtures("_tiny_data")
@pytest.mark.parametrize(
    ("between", "from_initial", "expected"),
    [(0.0, 0.0, [FAILED, HELD]), (1.0, 0.0, [HELD, HELD]), (0.0, 1.0, [FAILED, FAILED])],
)
def test_planted_barriers_are_found(between, from_initial, expected):
    def tell(cell):
        return a_walk(cell, between, from_initial) if isinstance(cell, Minima) else {}

    assert verdicts("minima", tell) == 2 * expected


@pytest.mark.usefixtures("_tiny_data")
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


@pytest.mark.usefixtures("_tiny_data")
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
