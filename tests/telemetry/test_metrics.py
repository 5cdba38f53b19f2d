"""Counting: histograms against naive counts, and several workers against one who saw everything."""

import copy
import gc
import itertools
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.telemetry.metrics import (
    COUNTERS,
    PHASES,
    ROWS,
    SECONDS,
    Distribution,
    Metrics,
    VersionMetrics,
    added,
)

EIGHTHS = st.integers(0, 100).map(lambda eighths: eighths / 8)  # they add up exactly, in any order


def naive(bounds: Sequence[float], values: Sequence[float]) -> list[int]:
    """How many values are in each interval: up to its bound and over the one before."""
    edges = [float("-inf"), *bounds, float("inf")]
    return [sum(low < value <= high for value in values) for low, high in itertools.pairwise(edges)]


@pytest.mark.parametrize("bounds", [SECONDS, ROWS])
@settings(max_examples=100)
@given(data=st.data())
def test_a_distribution_is_a_naive_count(bounds: Sequence[float], data: st.DataObject) -> None:
    value = st.one_of(st.sampled_from(bounds), st.floats(0, 2 * bounds[-1]))
    values = data.draw(st.lists(value, max_size=40))
    cut = data.draw(st.integers(0, len(values)))
    one_by_one, at_once, mixed = (Distribution(bounds) for _ in range(3))
    for value in values:
        one_by_one.note(value)
    at_once.note_all(np.array(values))
    mixed.note_all(np.array(values[:cut]))
    for value in values[cut:]:
        mixed.note(value)
    for distribution in (one_by_one, at_once, mixed):
        assert distribution.snapshot()["counts"] == naive(bounds, values)
        assert distribution.snapshot()["total"] == pytest.approx(sum(values))


def test_a_snapshot_is_plain_numbers_and_stays_as_it_was() -> None:
    distribution = Distribution(SECONDS)
    distribution.note_all(np.array([0.1, 3.0]))
    snapshot = distribution.snapshot()
    assert json.loads(json.dumps(snapshot)) == snapshot
    before = copy.deepcopy(snapshot)
    distribution.note(0.1)
    assert snapshot == before


@pytest.mark.parametrize("num_requests", [0, 1, 511, 512, 513, 2000])
def test_requests_are_counted_exactly_however_many_are_listed(num_requests: int) -> None:
    metrics = VersionMetrics(name="digits", version="1")
    phases = [tuple((number % 7 + place) / 8 for place in range(5)) for number in range(num_requests)]
    for number, seconds in enumerate(phases):
        metrics.answered(number % 3 + 1, seconds)
        assert len(metrics._listed) <= 512
    for snapshot in (metrics.snapshot(), metrics.snapshot()):
        assert snapshot["counters"]["requests"] == num_requests
        assert snapshot["counters"]["rows"] == sum(number % 3 + 1 for number in range(num_requests))
        for place, phase in enumerate(PHASES):
            values = [seconds[place] for seconds in phases]
            histogram = snapshot["histograms"][f"request_{phase}"]
            assert histogram == {"counts": naive(SECONDS, values), "total": sum(values)}


def test_a_batch_is_counted_with_its_padding_and_its_parts() -> None:
    metrics = VersionMetrics(name="digits", version="1")
    metrics.batch(num_rows=3, bucket=4, seconds=(0.125, 0.25, 0.5))
    metrics.batch(num_rows=3, bucket=4, seconds=(0.125, 0.25, 0.5))
    assert metrics.last_inference > 0
    last = metrics.last_inference
    metrics.batch(num_rows=5, bucket=8, seconds=None)
    metrics.failed(2.5)
    snapshot = metrics.snapshot()
    assert {name: count for name, count in snapshot["counters"].items() if count} == {
        **{"executions": 3, "failed_executions": 1, "padding_rows": 5},
        **{"failed_requests": 1, "failed_s": 2.5},
    }
    assert snapshot["histograms"]["compute"] == {"counts": naive(SECONDS, [0.875] * 2), "total": 1.75}
    assert snapshot["histograms"]["batch_rows"] == {"counts": naive(ROWS, [3, 3, 5]), "total": 11}
    sizes = {"executions": 2, "input_s": 0.25, "compute_s": 0.5, "output_s": 1.0}
    assert (snapshot["batch_sizes"], snapshot["last_inference"]) == ({"3": sizes}, last)


def test_a_version_that_comes_back_goes_on_counting() -> None:
    metrics = Metrics()
    first = metrics.add_version("digits", "1")
    assert metrics.add_version("digits", "2") is not first
    assert metrics.add_version("cats", "1") is not first
    assert metrics.add_version("digits", "1") is first
    assert [(known.name, known.version) for known in metrics.versions] == [
        *(("digits", "1"), ("digits", "2")),
        ("cats", "1"),
    ]


VERSION = st.tuples(st.sampled_from(["digits", "cats"]), st.sampled_from(["1", "2"]))
Event = tuple[str, tuple[str, str], tuple[Any, ...]]
EVENTS = st.one_of(
    st.tuples(st.just("answered"), VERSION, st.tuples(st.integers(1, 9), st.tuples(*[EIGHTHS] * 5))),
    st.tuples(st.just("failed"), VERSION, st.tuples(EIGHTHS, st.sampled_from(["overloaded", "draining"]))),
    st.tuples(
        st.just("batch"),
        VERSION,
        st.tuples(st.integers(1, 4), st.one_of(st.none(), st.tuples(EIGHTHS, EIGHTHS, EIGHTHS))),
    ),
    st.tuples(st.just("unknown"), VERSION, st.just(())),
    st.tuples(st.just("nonfinite"), VERSION, st.tuples(st.integers(1, 3))),
    st.tuples(st.just("parity"), VERSION, st.tuples(EIGHTHS, EIGHTHS)),
    st.tuples(st.just("gauges"), VERSION, st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))),
)


def happen(metrics: Metrics, event: Event) -> None:
    what, (name, version), details = event
    counted = metrics.add_version(name, version)
    match what:
        case "answered":
            counted.answered(*details)
        case "failed":
            counted.failed(details[0])
            metrics.failed(details[1], name)
        case "batch":
            counted.batch(num_rows=details[0], bucket=4, seconds=details[1])
        case "unknown":
            metrics.failed("unknown_model")
        case "nonfinite":
            counted.nonfinite_outputs += details[0]
        case "parity":
            known = counted.parity or {"logits": 0.0, "mask": 0.0}
            counted.parity = {
                output: max(known[output], difference)
                for output, difference in zip(known, details, strict=True)
            }
        case "gauges":
            cold, waiting, running = details
            before = counted._live or SimpleNamespace(waiting_rows=0, running_rows=0)
            counted.follow(
                SimpleNamespace(
                    cold_executions=cold,
                    waiting_rows=before.waiting_rows + waiting,
                    running_rows=before.running_rows + running,
                )
            )


def test_a_version_that_is_let_go_is_held_no_longer_and_its_count_stays() -> None:
    metrics = VersionMetrics(name="m", version="1")
    first = SimpleNamespace(waiting_rows=1, running_rows=2, cold_executions=3)
    second = SimpleNamespace(waiting_rows=5, running_rows=6, cold_executions=7)
    metrics.follow(first)
    metrics.follow(second)
    metrics.leave(first)  # it ends after the second one has begun: nothing of the second is lost
    assert metrics.snapshot()["gauges"] == {"queue_rows": 5, "running_rows": 6}
    assert metrics.snapshot()["counters"]["cold_executions"] == 10
    metrics.leave(second)
    assert metrics.snapshot()["gauges"] == {"queue_rows": 0, "running_rows": 0}
    assert metrics.snapshot()["counters"]["cold_executions"] == 10
    assert not any(live in gc.get_referents(metrics, vars(metrics)) for live in (first, second))


def sent(metrics: Metrics) -> dict[str, Any]:
    """What another worker hears."""
    return json.loads(json.dumps(metrics.snapshot()))


def in_order(snapshot: dict[str, Any]) -> dict[str, Any]:
    """The same in any order; no parity is a parity of nothing."""
    ordered = {name: sorted(snapshot[name], key=json.dumps) for name in ("proved", "failures")}
    return {
        "versions": {(facts["name"], facts["version"]): facts for facts in snapshot["versions"]},
        **ordered,
    }


def group_and_one(events: Sequence[tuple[int, Event]], num_workers: int) -> tuple[list[Metrics], Metrics]:
    """Workers who saw some each, and one who saw everything, at the same times."""
    workers, everything = [Metrics() for _ in range(num_workers)], Metrics()
    for metrics in (*workers, everything):
        for version in itertools.product(["digits", "cats"], ["1", "2"]):
            metrics.add_version(*version).parity = {"logits": 0.0, "mask": 0.0}
    for at, (worker, event) in enumerate(events, 1):
        with patch("service.telemetry.metrics.time.time", return_value=float(at)):
            happen(workers[worker % num_workers], event)
            happen(everything, event)
    return workers, everything


@settings(max_examples=200)
@given(
    events=st.lists(st.tuples(st.integers(0, 3), EVENTS), max_size=15),
    num_workers=st.integers(1, 4),
    random=st.randoms(use_true_random=False),
)
def test_workers_added_up_are_one_who_saw_everything(
    events: list[tuple[int, Event]], num_workers: int, random: Any
) -> None:
    workers, everything = group_and_one(events, num_workers)
    snapshots = [sent(worker) for worker in workers]
    before = copy.deepcopy(snapshots)
    whole = in_order(sent(everything))
    assert in_order(added(snapshots)) == whole
    random.shuffle(snapshots)
    assert in_order(added(snapshots)) == whole
    in_steps = snapshots[0]
    for snapshot in snapshots[1:]:
        in_steps = added([in_steps, snapshot])
    assert in_order(in_steps) == whole
    assert sorted(snapshots, key=json.dumps) == sorted(before, key=json.dumps), "adding changes no snapshot"


def test_a_version_that_one_worker_does_not_have_counts_as_it_is() -> None:
    one, other = Metrics(), Metrics()
    one.add_version("digits", "1").answered(3, (0.125,) * 5)
    other.add_version("digits", "2").batch(num_rows=2, bucket=2, seconds=(0.125,) * 3)
    both = added([sent(one), sent(other)])
    assert both["versions"] == [*sent(one)["versions"], *sent(other)["versions"]]


def test_a_version_is_proved_where_every_worker_proved_it() -> None:
    one, other, third = Metrics(), Metrics(), Metrics()
    one.proved = {("digits", "1"): True, ("digits", "2"): True, ("cats", "1"): False}
    other.proved = {("digits", "1"): True, ("digits", "2"): False, ("birds", "1"): True}
    third.proved = {("digits", "2"): True, ("cats", "1"): False}
    expected = [
        *(["birds", "1", True], ["cats", "1", False]),
        *(["digits", "1", True], ["digits", "2", False]),
    ]
    for group in itertools.permutations([one, other, third]):
        assert sorted(added([sent(metrics) for metrics in group])["proved"]) == expected


def test_the_worse_parity_and_the_last_inference_are_exposed() -> None:
    workers = [Metrics(), Metrics()]
    for worker, parity, last in zip(workers, (0.25, 0.5), (7.0, 3.0), strict=True):
        counted = worker.add_version("digits", "1")
        counted.parity, counted.last_inference = {"logits": parity, "mask": 1 - parity}, last
    (facts,) = added([sent(worker) for worker in workers])["versions"]
    assert (facts["parity"], facts["last_inference"]) == ({"logits": 0.5, "mask": 0.75}, 7.0)


@pytest.mark.parametrize("turned", [False, True])
def test_workers_that_proved_other_outputs_of_one_version_add_up_too(turned: bool) -> None:
    workers = [Metrics(), Metrics()]
    workers[0].add_version("digits", "1").parity = {"logits": 0.25, "mask": 0.5}
    workers[1].add_version("digits", "1").parity = {"logits": 0.5, "boxes": 0.75}
    snapshots = [sent(worker) for worker in (reversed(workers) if turned else workers)]
    (facts,) = added(snapshots)["versions"]
    assert facts["parity"] == {"logits": 0.5, "mask": 0.5, "boxes": 0.75}


def test_adding_nothing_is_nothing_and_adding_one_is_that_one() -> None:
    assert added([]) == {"versions": [], "proved": [], "failures": []}
    metrics = Metrics()
    metrics.add_version("digits", "1").answered(1, (0.125,) * 5)
    metrics.failed("overloaded", "digits")
    assert added([sent(metrics)]) == sent(metrics)


def test_every_counter_is_exposed() -> None:
    assert set(told_counters()) == {*COUNTERS, "cold_executions"}


def told_counters() -> dict[str, int]:
    return VersionMetrics(name="digits", version="1").snapshot()["counters"]
