"""The simulated signal: it scales before deadlines are missed, and nothing is scaled without need."""

import math

from benchmarks.scaling_signal import CAPACITY, simulate


def test_the_queue_scales_before_deadlines_are_missed() -> None:
    def load(at: float) -> float:
        return CAPACITY * (0.4 + at / 200)  # beyond what one replica answers after two minutes

    scaled = simulate(load, 180, "queue", 4.0, first=1)
    assert scaled.missed == 0
    assert scaled.first_scaled_s < 120
    alone = simulate(load, 180, None, 1.0, first=1)
    assert alone.missed > 0, "the control"
    assert scaled.first_scaled_s < alone.first_miss_s


def test_half_of_the_capacity_scales_nothing() -> None:
    ran = simulate(lambda at: CAPACITY / 2, 60, "queue", 4.0, first=1)
    assert (ran.missed, ran.most, ran.first_scaled_s) == (0, 1, math.inf)
