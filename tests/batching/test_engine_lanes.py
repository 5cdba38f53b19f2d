"""Engines with several lanes: what runs at once must not mix, and what was answered must not change.

The proof and the warming cover every bucket of every lane; a batch that was not warmed is counted.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.contract.bundle import open_bundle
from service.engine.engine import Engine, EngineConfig, load_engine
from service.engine.plan import open_lanes
from service.engine.session import CPU, EngineError, SessionPlan
from tiny_nets import digits_net, write_bundle

BUCKETS = (1, 2, 4)


@pytest.fixture
def bundle(tmp_path: Path) -> Any:
    return open_bundle(write_bundle(tmp_path / "digits" / "1", digits_net()))


def engine_of(bundle: Any, plan: SessionPlan) -> Engine:
    lanes = open_lanes(bundle.graph, bundle.manifest, CPU, plan, BUCKETS[-1])
    return Engine(lanes, bundle.manifest, plan, BUCKETS, CPU)


def test_lanes_at_once_answer_as_each_alone(bundle: Any) -> None:
    engine = load_engine(bundle, EngineConfig(device="cpu", threads=4, lanes=4, buckets=BUCKETS))
    net = digits_net()
    work = [
        [net.rows(1 + (lane + turn) % 4, seed=10 * lane + turn) for turn in range(50)] for lane in range(4)
    ]
    alone = [[engine.run(lane, [rows]).answers["logits"] for rows in work[lane]] for lane in range(4)]
    together = threading.Barrier(4)

    def run(lane: int) -> list[np.ndarray]:
        found = []
        for rows in work[lane]:
            together.wait(30)
            found.append(engine.run(lane, [rows]).answers["logits"])
        return found

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(run, range(4)))
    for lane in range(4):
        for one, other in zip(answers[lane], alone[lane], strict=True):
            np.testing.assert_array_equal(one, other)


def test_bindings_change_no_bit(bundle: Any) -> None:
    net = digits_net()
    engines = [engine_of(bundle, SessionPlan(has_bindings=flag)) for flag in (True, False)]
    for num_rows in (1, 2, 3, 4):
        rows = net.rows(num_rows, seed=num_rows)
        one, other = (engine.run(0, [rows]).answers["logits"] for engine in engines)
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("has_bindings", [True, False])
def test_a_second_run_cannot_change_earlier_answers(bundle: Any, has_bindings: bool) -> None:
    engine = engine_of(bundle, SessionPlan(has_bindings=has_bindings))
    net = digits_net()
    first = engine.run(0, [net.rows(4, seed=1)]).answers["logits"]
    before = first.copy()
    for seed in range(2, 6):
        engine.run(0, [net.rows(4, seed=seed)])
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_bucket_that_was_not_warmed_is_counted_once(bundle: Any, lanes: int) -> None:
    engine = load_engine(bundle, EngineConfig(device="cpu", threads=lanes, lanes=lanes, buckets=BUCKETS))
    rows = digits_net().rows(4)
    for lane in range(lanes):
        for num_rows in (1, 2, 3, 4):
            engine.run(lane, [{"input": rows["input"][:num_rows]}])
    assert engine.cold_executions == 0
    engine._warm.discard((lanes - 1, 4))
    for _ in range(2):
        engine.run(lanes - 1, [rows])
    assert engine.cold_executions == 1


def test_the_proof_covers_every_lane(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: set[tuple[int, int]] = set()
    run = Engine.run

    def spy(self: Engine, lane: int, jobs: Any) -> Any:
        ran.add((lane, self.bucket(sum(len(job["input"]) for job in jobs))))
        outcome = run(self, lane, jobs)
        if lane == is_wrong:
            outcome.answers["logits"][0, 0] += 1  # type: ignore[index]
        return outcome

    monkeypatch.setattr(Engine, "run", spy)
    config = EngineConfig(device="cpu", threads=3, lanes=3, buckets=BUCKETS)
    is_wrong = -1
    load_engine(bundle, config)
    assert ran == {(lane, bucket) for lane in range(3) for bucket in BUCKETS}
    is_wrong = 2
    with pytest.raises(EngineError, match="differs from its golden answers"):
        load_engine(bundle, config)
