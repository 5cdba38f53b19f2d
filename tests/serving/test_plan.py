"""The plan: measured once, kept, read again; and what an engine with several lanes must not mix up."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import service.engine.plan
from service.contract.bundle import open_bundle
from service.engine.engine import EngineConfig, load_engine
from service.engine.plan import Measured, PlanRequest, choose_plan
from service.engine.session import CPU, EngineError, SessionPlan, open_session
from service.models.repository import Loaded, load_version
from tiny_nets import digits_net, echo_net, write_bundle

BUCKETS = (1, 2, 4)


@pytest.fixture
def bundle(tmp_path: Path) -> Any:
    return open_bundle(write_bundle(tmp_path / "digits" / "1", digits_net()))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "plans"


def request_of(bundle: Any, cache: Path | None, **changes: Any) -> PlanRequest:
    facts: dict[str, Any] = {
        "graph": bundle.graph,
        "digest": bundle.digest,
        "manifest": bundle.manifest,
        "golden": bundle.golden,
        "provider": CPU,
        "threads": 2,
        "lanes": None,
        "buckets": BUCKETS,
        "cache": cache,
    }
    return PlanRequest(**{**facts, **changes})


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[SessionPlan]:
    """Every plan that is measured from now on."""
    plans: list[SessionPlan] = []
    measure = service.engine.plan._try

    def spy(plan: SessionPlan, request: PlanRequest) -> Measured | None:
        plans.append(plan)
        return measure(plan, request)

    monkeypatch.setattr(service.engine.plan, "_try", spy)
    return plans


def measured_as(monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    """Measurements are what `told` says of a plan."""
    monkeypatch.setattr(service.engine.plan, "_try", lambda plan, request: told(plan))


def test_a_plan_is_measured_once_and_read_again(bundle: Any, cache: Path, tried: list[SessionPlan]) -> None:
    first = choose_plan(request_of(bundle, cache))
    assert tried
    (kept,) = cache.iterdir()
    assert json.loads(kept.read_text()) == dataclasses.asdict(first)
    tried.clear()
    assert choose_plan(request_of(bundle, cache)) == first
    assert tried == []


def test_what_is_read_is_what_was_kept_not_a_default(
    bundle: Any, cache: Path, tried: list[SessionPlan]
) -> None:
    choose_plan(request_of(bundle, cache))
    (kept,) = cache.iterdir()
    odd = SessionPlan(threads=1, lanes=2, has_bindings=False, has_arena=False)
    kept.write_text(json.dumps(dataclasses.asdict(odd)))
    tried.clear()
    assert (choose_plan(request_of(bundle, cache)), tried) == (odd, [])


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "0" * 64},
        {"threads": 4},
        {"lanes": 1},
        {"buckets": (1, 2)},
        {"provider": "CUDAExecutionProvider"},
    ],
)
def test_the_key_tells_apart_what_a_plan_is_true_for(
    bundle: Any, cache: Path, changes: dict[str, Any]
) -> None:
    assert request_of(bundle, cache, **changes).key != request_of(bundle, cache).key
    assert request_of(bundle, None).key == request_of(bundle, cache).key


def test_the_key_changes_with_the_runtime_and_the_processor(
    bundle: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = request_of(bundle, cache).key
    monkeypatch.setattr(service.engine.plan, "ORT_VERSION", "0.0.1")
    other_runtime = request_of(bundle, cache).key
    monkeypatch.undo()
    monkeypatch.setattr(service.engine.plan, "_device_name", lambda provider: "another")
    assert len({before, other_runtime, request_of(bundle, cache).key}) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"threads":1,"lanes":1,"colour":"blue"}',
        b'{"threads":"two","lanes":1}',
        b'{"threads":1,"lanes":0}',
        b'{"threads":1,"lanes":-1}',
        b'{"threads":1,"lanes":1.5}',
        b'{"threads":-7,"lanes":1}',
        b'{"threads":1,"lanes":16}',
        b"[" * 100_000,
    ],
)
def test_a_spoilt_cache_is_harmless(tmp_path: Path, cache: Path, content: bytes) -> None:
    """Whatever stands there, the model is served, and within the cores."""
    write_bundle(tmp_path / "models" / "echo" / "1", echo_net("float32"))
    config = EngineConfig(device="cpu", threads=2, buckets=BUCKETS, cache=cache)
    assert isinstance(load_version(tmp_path / "models/echo/1", "echo", "1", config), Loaded)
    (kept,) = cache.iterdir()
    kept.write_bytes(content)
    fact = load_version(tmp_path / "models/echo/1", "echo", "1", config)
    assert isinstance(fact, Loaded), fact.reason
    assert 1 <= fact.engine.plan.lanes * fact.engine.plan.threads <= 2


def test_an_older_releases_cache_is_harmless(bundle: Any, cache: Path) -> None:
    choose_plan(request_of(bundle, cache))
    (kept,) = cache.iterdir()
    kept.write_text('{"threads": 1, "lanes": 2}')  # written before the other choices existed
    assert choose_plan(request_of(bundle, cache)) == SessionPlan(threads=1, lanes=2)


@pytest.mark.parametrize("how", ["a file", "a folder of the plan's name", "no room"])
def test_a_cache_that_cannot_be_written_is_harmless(
    bundle: Any, cache: Path, tried: list[SessionPlan], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(bundle, cache)
    if how == "a file":
        cache.parent.write_text("in the way")
    elif how == "a folder of the plan's name":
        (cache / f"{request.key}.json").mkdir(parents=True)
    else:

        def full(*arguments: object, **options: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
    assert choose_plan(request).lanes >= 1
    assert tried


def test_nothing_half_written_is_left(bundle: Any, cache: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        plans = list(threads.map(lambda _: choose_plan(request_of(bundle, cache)), range(4)))
    assert [path.suffix for path in cache.iterdir()] == [".json"]
    assert choose_plan(request_of(bundle, cache)) in plans


@pytest.mark.parametrize(("threads", "lanes"), [(1, 1), (2, 1), (2, 2), (4, 2), (5, 3)])
def test_lanes_that_were_asked_for_are_respected(
    bundle: Any, threads: int, lanes: int, tried: list[SessionPlan]
) -> None:
    plan = choose_plan(request_of(bundle, None, threads=threads, lanes=lanes))
    assert (plan.lanes, plan.threads, tried) == (lanes, threads // lanes, [])


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 7, 64])
def test_every_candidate_stays_within_the_cores(
    bundle: Any, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[SessionPlan] = []

    def told(plan: SessionPlan) -> Measured:
        seen.append(plan)
        return Measured(rows_per_s=1, alone_s=1)

    measured_as(monkeypatch, told)
    choose_plan(request_of(bundle, None, threads=threads))
    assert all(1 <= plan.lanes * plan.threads <= threads for plan in seen)
    assert {plan.lanes for plan in seen} >= {1, threads}


def test_of_plans_as_fast_as_the_best_the_quickest_alone_is_chosen(
    bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {1: Measured(rows_per_s=96, alone_s=1), 2: Measured(rows_per_s=97, alone_s=2)}
    told[4] = Measured(rows_per_s=100, alone_s=4)
    measured_as(monkeypatch, lambda plan: told[plan.lanes])
    assert choose_plan(request_of(bundle, None, threads=4)).lanes == 1
    told[1] = Measured(rows_per_s=94, alone_s=1)
    assert choose_plan(request_of(bundle, None, threads=4)).lanes == 2


def test_a_change_must_gain_more_than_noise_and_not_slow_one_row(
    bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(rate: float, alone: float) -> bool:
        plain = Measured(rows_per_s=100, alone_s=1)
        changed = Measured(rows_per_s=rate, alone_s=alone)
        measured_as(monkeypatch, lambda plan: plain if plan.has_arena else changed)
        return not choose_plan(request_of(bundle, None, threads=1)).has_arena

    assert [chosen(104, 1), chosen(106, 1), chosen(200, 1.1)] == [False, True, False]


def test_candidates_that_cannot_run_are_passed_over(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(graph: bytes, provider: str, plan: SessionPlan) -> Any:
        if plan.lanes == 1 or not plan.has_arena:
            raise EngineError("not by this plan")
        if not plan.has_bindings:
            raise RuntimeError("nor by this one")
        return open_session(graph, provider, plan)

    monkeypatch.setattr(service.engine.plan, "open_session", picky)
    plan = choose_plan(request_of(bundle, None))
    assert (plan.lanes, plan.has_arena, plan.has_bindings) == (2, True, True)


def test_case_29_when_no_candidate_runs_opening_says_why(bundle: Any, cache: Path) -> None:
    broken = dataclasses.replace(bundle, graph=b"garbage")
    choose_plan(request_of(broken, cache))
    assert not cache.exists(), "a plan was kept that nothing was measured by"
    with pytest.raises(EngineError, match="cannot load"):
        load_engine(broken, EngineConfig(device="cpu", threads=2, buckets=BUCKETS, cache=cache))
