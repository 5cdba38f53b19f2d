"""How long things take: which batch runs, when a job would be answered, what is promised."""

import math
from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.forecast import NEAR, Forecast

BUCKETS = (1, 2, 4, 8)
SECONDS = {1: 1.0, 2: 1.5, 4: 2.0, 8: 3.0}
NONE = math.inf


def counted(sizes: Sequence[int], slacks: Sequence[float], seconds: dict[int, float] = SECONDS) -> int:
    return Forecast(BUCKETS, seconds).best_count(sizes, slacks)


@st.composite
def waiting_pieces(draw: st.DrawFn) -> tuple[list[int], list[float]]:
    """Sizes and slacks of pieces that fit in the largest bucket together."""
    sizes = draw(st.lists(st.integers(1, 8), min_size=1, max_size=8))
    while sum(sizes) > BUCKETS[-1]:
        sizes.pop()
    slack = st.one_of(st.just(NONE), st.floats(0.01, 8), st.sampled_from(list(SECONDS.values())))
    return sizes, draw(st.lists(slack, min_size=len(sizes), max_size=len(sizes)))


CURVES = st.lists(st.floats(0.01, 5), min_size=4, max_size=4)


@settings(max_examples=300)
@given(waiting=waiting_pieces(), steps=CURVES)
def test_the_smallest_batch_near_the_best_rate_that_keeps_every_deadline(
    waiting: tuple[list[int], list[float]], steps: list[float]
) -> None:
    sizes, slacks = waiting
    forecast = Forecast(BUCKETS, dict(zip(BUCKETS, accumulate(steps), strict=True)))
    rows = list(accumulate(sizes))

    def is_in_time(count: int) -> bool:
        return count == 1 or forecast.batch_s(rows[count - 1]) <= min(slacks[:count])

    def rate(count: int) -> float:
        return rows[count - 1] / forecast.batch_s(rows[count - 1])

    def bucket(count: int) -> int:
        return forecast.bucket(rows[count - 1])

    chosen = forecast.best_count(sizes, slacks)
    assert is_in_time(chosen)
    counts = [count for count in range(1, len(sizes) + 1) if is_in_time(count)]
    enough = NEAR * max(rate(count) for count in counts)
    assert rate(chosen) >= enough
    assert all(rate(count) < enough for count in counts if bucket(count) < bucket(chosen)), "the smallest"
    assert all(bucket(count) != bucket(chosen) for count in counts if count > chosen), "as full as it may be"


@settings(max_examples=200)
@given(waiting=waiting_pieces(), times=CURVES)
def test_whatever_the_curve_a_batch_of_several_keeps_every_deadline(
    waiting: tuple[list[int], list[float]], times: list[float]
) -> None:
    sizes, slacks = waiting
    forecast = Forecast(BUCKETS, dict(zip(BUCKETS, times, strict=True)))
    best = forecast.best_count(sizes, slacks)
    assert 1 <= best <= len(sizes)
    assert best == 1 or forecast.batch_s(sum(sizes[:best])) <= min(slacks[:best])


@pytest.mark.parametrize(
    ("sizes", "slacks", "count"),
    [
        ([1] * 8, [NONE] * 8, 8),
        ([1] * 8, [2.0] + [NONE] * 7, 4),  # the oldest allows 2 s, what four rows take
        ([1] * 8, [1.99] + [NONE] * 7, 2),
        ([1] * 8, [NONE] * 4 + [2.5] + [NONE] * 3, 4),  # five rows would take 3 s: the fifth stays
        ([1] * 8, [9.0, 9.0, 1.8] + [NONE] * 5, 2),  # and so does the third, whose deadline is the nearest
        ([1] * 8, [0.5] + [NONE] * 7, 1),  # too late already: it runs alone
        ([8], [0.1], 1),
        ([3, 3, 2], [NONE] * 3, 3),
        ([4, 1], [NONE] * 2, 1),  # 5 rows in a bucket of 8: 1.67 rows a second; 4 in one of 4: 2
        ([4, 2], [NONE] * 2, 1),  # as many rows a second: the smaller batch is answered sooner
        ([1], [NONE], 1),
    ],
)
def test_how_many_run(sizes: list[int], slacks: list[float], count: int) -> None:
    assert counted(sizes, slacks) == count


def test_a_latency_that_grows_faster_than_its_rows_keeps_batches_small() -> None:
    assert counted([1] * 8, [NONE] * 8, {1: 1.0, 2: 1.5, 4: 6.0, 8: 20.0}) == 2


@pytest.mark.parametrize(("seconds_of_8", "count"), [(3.9, 4), (3.8, 8)])
def test_a_larger_batch_must_be_worth_it(seconds_of_8: float, count: int) -> None:
    assert counted([1] * 8, [NONE] * 8, SECONDS | {8: seconds_of_8}) == count


@pytest.mark.parametrize(("row_s", "count"), [(1.0, 1), (0.0001, 8)])
def test_short_batches_are_not_worth_handing_over_one_by_one(row_s: float, count: int) -> None:
    """Both curves are straight: only the fixed cost of a batch makes large ones better."""
    assert counted([1] * 8, [NONE] * 8, {bucket: row_s * bucket for bucket in BUCKETS}) == count


def test_knowing_nothing_takes_all_that_waits() -> None:
    forecast = Forecast(BUCKETS, {})
    assert forecast.best_count([1, 1, 3], [NONE] * 3) == 3
    assert (forecast.batch_s(8), forecast.drain_s(100), forecast.finish_s(9, 9)) == (0, 0, 0)
    assert forecast.promise_s(forecast.finish_s(1, 1)) == 0


@pytest.mark.parametrize(
    ("seen", "curve"),
    [
        (SECONDS, [1.0, 1.5, 2.0, 3.0]),
        ({1: 1.0, 8: 3.0}, [1.0, 1.0, 1.0, 3.0]),
        ({4: 2.0}, [2.0, 2.0, 2.0, 2.0]),
        ({4: 2.0, 8: 1.0}, [1.0, 1.0, 2.0, 1.0]),  # below the smallest seen: the least that any took
        ({3: 9.0}, [0.0, 0.0, 0.0, 0.0]),  # not a bucket of ours
        ({}, [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_an_unseen_bucket_takes_as_long_as_the_seen_one_below(
    seen: dict[int, float], curve: list[float]
) -> None:
    forecast = Forecast(BUCKETS, seen)
    assert [forecast.batch_s(bucket) for bucket in BUCKETS] == curve


def test_rows_take_as_long_as_the_bucket_that_holds_them() -> None:
    forecast = Forecast(BUCKETS, SECONDS)
    assert [forecast.bucket(rows) for rows in (1, 2, 3, 4, 5, 8, 9, 100)] == [1, 2, 4, 4, 8, 8, 8, 8]
    assert [forecast.batch_s(rows) for rows in (1, 2, 3, 4, 5, 8, 9)] == [1.0, 1.5, 2.0, 2.0, 3.0, 3.0, 3.0]


@pytest.mark.parametrize("lanes", [1, 2])
def test_draining_takes_as_many_of_the_best_batches_as_are_needed(lanes: int) -> None:
    forecast = Forecast(BUCKETS, SECONDS, lanes)
    assert forecast.best_bucket == 8
    drains = [forecast.drain_s(rows) * lanes for rows in (0, 1, 8, 9, 16, 17)]
    assert drains == [0, 3, 3, 6, 6, 9]
    small = Forecast(BUCKETS, {1: 1.0, 2: 1.5, 4: 6.0, 8: 20.0}, lanes)
    assert small.best_bucket == 2
    assert [small.drain_s(rows) * lanes for rows in (1, 2, 3)] == [1.5, 1.5, 3.0]


@pytest.mark.parametrize(
    ("before", "num_rows", "lanes", "finish"),
    [
        (0, 1, 1, 1.0),
        (0, 3, 1, 2.0),
        (0, 24, 1, 9.0),  # more than a batch: three of the largest
        (0, 24, 2, 6.0),  # two at once, then one
        (0, 17, 2, 3.0 + 1.0),
        (1, 1, 1, 1.5),  # what is before it comes along
        (8, 1, 1, 3.0 + 1.0),
        (9, 2, 1, 3.0 + 2.0),
        (8, 16, 1, 9.0),
        (8, 16, 2, 4.5),
    ],
)
def test_a_job_ends_after_what_is_before_it(before: int, num_rows: int, lanes: int, finish: float) -> None:
    assert Forecast(BUCKETS, SECONDS, lanes).finish_s(before, num_rows) == finish
