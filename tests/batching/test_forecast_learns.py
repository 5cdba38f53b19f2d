"""What a forecast learns from batches that ran and jobs that were answered."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.forecast import SMOOTHING, Forecast

BUCKETS = (1, 2, 4, 8)


SECONDS = {1: 1.0, 2: 1.5, 4: 2.0, 8: 3.0}


NONE = math.inf


def test_a_slow_engine_is_slow_in_every_bucket() -> None:
    forecast = Forecast(BUCKETS, SECONDS)
    forecast.note_batch(5, 6.0, 6.0)
    slower = 1 + SMOOTHING
    assert [forecast.batch_s(rows) for rows in BUCKETS] == pytest.approx([slower * s for s in (1, 1.5, 2, 3)])
    for _ in range(300):
        forecast.note_batch(1, 2.0, 2.0)
    assert [forecast.batch_s(rows) for rows in BUCKETS] == pytest.approx([2.0, 3.0, 4.0, 6.0])
    assert forecast.drain_s(9) == pytest.approx(12.0)
    for _ in range(300):
        forecast.note_batch(8, 3.0, 3.0)
    assert [forecast.batch_s(rows) for rows in BUCKETS] == pytest.approx([1.0, 1.5, 2.0, 3.0])


def test_what_a_batch_takes_beside_the_engine_is_added_to_each() -> None:
    forecast = Forecast(BUCKETS, SECONDS)
    forecast.note_batch(1, 1.0, 6.0)
    assert forecast.batch_s(8) == pytest.approx(3.0 + SMOOTHING * 5.0)
    for _ in range(300):
        forecast.note_batch(1, 1.0, 6.0)
    assert [forecast.batch_s(rows) for rows in BUCKETS] == pytest.approx([6.0, 6.5, 7.0, 8.0])
    for _ in range(300):
        forecast.note_batch(1, 1.0, 0.9)  # two clocks may differ a little
    assert forecast.batch_s(1) == pytest.approx(1.0)


def test_overhead_changes_which_batch_is_best() -> None:
    forecast = Forecast(BUCKETS, {1: 1.0, 2: 2.1, 4: 4.4, 8: 9.2})
    assert (forecast.best_bucket, forecast.best_count([1] * 8, [NONE] * 8)) == (1, 1)
    for _ in range(300):
        forecast.note_batch(1, 1.0, 3.0)
    assert (forecast.best_bucket, forecast.best_count([1] * 8, [NONE] * 8)) == (8, 8)


def test_a_stall_counts_as_ten_times_too_slow_at_most() -> None:
    forecast = Forecast(BUCKETS, SECONDS)
    forecast.note_batch(1, 1e6, 1e6)
    assert forecast.batch_s(1) == pytest.approx(1 + SMOOTHING * 9)


@pytest.mark.parametrize("slowdown", [1.0, 2.0])
def test_the_first_batch_of_an_unseen_bucket_says_how_long_it_takes(slowdown: float) -> None:
    forecast = Forecast(BUCKETS, {1: 1.0})
    for _ in range(300):
        forecast.note_batch(1, slowdown, slowdown)
    forecast.note_batch(3, 7.0, 7.0)
    assert [forecast.batch_s(rows) for rows in BUCKETS] == pytest.approx([slowdown, slowdown, 7.0, 7.0])


def test_more_rows_than_the_largest_bucket_count_for_the_largest() -> None:
    forecast = Forecast(BUCKETS, {1: 1.0})
    forecast.note_batch(9, 13.0, 13.0)
    assert forecast.batch_s(8) == pytest.approx(13.0)


@pytest.mark.parametrize(
    ("lanes", "num_rows", "seconds"),
    [
        *((1, 1, 1.0), (1, 8, 3.0), (1, 9, 4.0), (1, 12, 5.0), (1, 24, 9.0), (3, 8, 3.0)),
        *((2, 9, 3.0), (2, 16, 3.0), (2, 17, 4.0), (2, 24, 6.0), (2, 25, 6.0), (3, 25, 4.0)),
    ],
)
def test_alone_a_job_runs_in_pieces_over_the_lanes(lanes: int, num_rows: int, seconds: float) -> None:
    forecast = Forecast(BUCKETS, SECONDS, lanes)
    assert (forecast.alone_s(num_rows), forecast.minimum_s(num_rows)) == (seconds, seconds)


def test_the_minimum_of_a_job_does_not_grow_with_a_slowdown() -> None:
    forecast = Forecast(BUCKETS, SECONDS)
    for _ in range(10):
        forecast.note_batch(1, 5.0, 50.0)
    assert forecast.alone_s(12) > 20
    assert [forecast.minimum_s(rows) for rows in (1, 3, 8, 12)] == pytest.approx([1.0, 2.0, 3.0, 5.0])


def promised(forecast: Forecast, ratios: Sequence[float]) -> float:
    """What one second is promised as, after jobs that took `ratios` times their forecast."""
    for ratio in ratios:
        forecast.note_job(2.0, 2.0 * ratio)
    return forecast.promise_s(1.0)


def test_a_promise_begins_with_some_room() -> None:
    assert Forecast(BUCKETS, SECONDS).promise_s(2.0) == pytest.approx(2.6)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0, 9.0])
def test_a_promise_learns_how_true_forecasts_are(ratio: float) -> None:
    assert promised(Forecast(BUCKETS, SECONDS), [ratio] * 1000) == pytest.approx(ratio, rel=1e-2)


def test_forecasts_that_scatter_promise_more() -> None:
    steady = promised(Forecast(BUCKETS, SECONDS), [1.0] * 1000)
    scattered = promised(Forecast(BUCKETS, SECONDS), [0.5, 1.5] * 500)
    assert steady == pytest.approx(1.0, rel=1e-3)
    assert scattered == pytest.approx(1 + 3 * 0.5, rel=0.05)


def test_one_stall_does_not_undo_what_was_learnt() -> None:
    forecast = Forecast(BUCKETS, SECONDS)
    promised(forecast, [1.0] * 1000)
    stalled = promised(forecast, [1e9])
    assert 1.0 < stalled < 2.0
    assert promised(forecast, [1.0] * 300) < 1.05


def test_a_job_that_was_not_forecast_teaches_nothing() -> None:
    forecast = Forecast(BUCKETS, SECONDS)
    forecast.note_job(0.0, 100.0)
    assert forecast.promise_s(1.0) == pytest.approx(1.3)


@settings(max_examples=100)
@given(
    batches=st.lists(st.tuples(st.integers(1, 12), st.floats(0, 100), st.floats(0, 200)), max_size=30),
    jobs=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1e9)), max_size=30),
    lanes=st.integers(1, 4),
)
def test_forecasts_stay_numbers_whatever_is_noted(
    batches: list[tuple[int, float, float]], jobs: list[tuple[float, float]], lanes: int
) -> None:
    forecast = Forecast(BUCKETS, {}, lanes)
    for num_rows, engine_s, turnaround_s in batches:
        forecast.note_batch(num_rows, engine_s, turnaround_s)
    for expected, actual in jobs:
        forecast.note_job(expected, actual)
    for num_rows in (1, 3, 8, 20):
        assert 0 <= forecast.batch_s(num_rows) <= 10 * 100 + 200
        answer = forecast.finish_s(5, num_rows)
        assert answer >= 0
        assert forecast.alone_s(num_rows) >= 0
        assert forecast.minimum_s(num_rows) >= 0
        assert 0 <= forecast.promise_s(answer) < math.inf
