"""One rule for all claims: an interval against a margin, and numbers in their units."""

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
from study.lab import StudyError
from study.report import measured


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
