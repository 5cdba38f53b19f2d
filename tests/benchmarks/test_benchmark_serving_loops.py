"""The benchmark's drivers and its store: open loops, plans, rounds, targets and the table."""

import asyncio

import numpy as np
import pytest
import uvloop

from benchmarks.serving.driver import Driver, Trace, poisson
from benchmarks.serving.medians import best_bare, maximum, medians
from benchmarks.serving.open_loop import outcome
from benchmarks.serving.plan import read_plan, write_plan
from benchmarks.serving.steps import steps
from benchmarks.serving.store import FAILED, Cell, Store
from benchmarks.serving.systems import BARE, SYSTEMS
from benchmarks.serving.table import render
from benchmarks.serving.targets import targets
from benchmarks.serving.wire import Request, Route, requests_for
from serving_benchmark_kit import Answer, of_row_0, right, serve


def driven(
    answer: Answer, requests: list[Request], due: np.ndarray, connections: int, **server: bool
) -> Trace:
    """Run the open loop against a server in the same event loop."""

    async def run() -> Trace:
        async with await serve(answer, **server) as listening:
            port = listening.sockets[0].getsockname()[1]
            raw = [request.raw("127.0.0.1") for request in requests]
            return await Driver(raw, due).run("127.0.0.1", port, connections)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def test_the_open_loop_sends_everything_and_checks_each_answer(samples):
    requests = requests_for(Route("/", "raw"), samples, "m")
    due = poisson(rate=1000, seconds=0.3, seed=0)
    result = outcome(driven(right, requests, due, connections=8), requests)
    assert (result.requests, result.right, result.wrong, result.statuses) == (300, 300, 0, {"200": 300})
    result = outcome(driven(of_row_0, requests, due, connections=8), requests)
    assert (result.right, result.wrong) == (100, 200)
    assert result.example.startswith("200 b'")


def test_the_open_loop_continues_when_connections_end(samples):
    requests = requests_for(Route("/", "raw"), samples, "m")
    trace = driven(right, requests, poisson(500, 0.1, seed=1), connections=2, closes=True)
    assert (trace.status == 200).all()


def test_waiting_for_a_connection_counts_as_latency(samples):
    requests = requests_for(Route("/", "raw"), samples, "m")
    trace = driven(right, requests, np.zeros(20), connections=1)
    assert trace.waited.tolist() == [False] + [True] * 19
    assert (np.diff(trace.sent) >= 0).all()
    assert (trace.sent[1:] >= trace.done[:-1]).all()
    result = outcome(trace, requests)
    assert result.waited == 19
    assert result.p99_ms >= result.sent_p99_ms


def test_refusals_are_not_answers(samples):
    requests = requests_for(Route("/", "raw"), samples, "m")
    trace = driven(lambda body: (503, b"busy"), requests, np.zeros(6), connections=3)
    result = outcome(trace, requests, deadline_s=1.0)
    assert (result.right, result.wrong, result.in_time, result.refused) == (0, 0, 0, 6)
    assert result.refused_p99_ms > 0


def test_poisson_is_the_same_for_a_seed_and_has_the_rate():
    due = poisson(1000, 10, seed=3)
    assert len(due) == 10_000
    assert due[-1] == pytest.approx(10, rel=0.05)
    assert (due == poisson(1000, 10, seed=3)).all()
    assert (due != poisson(1000, 10, seed=4)).any()


def cell(load: str = "c64", rate: float = 100.0, **fields: object) -> Cell:
    place = {"round": 1, "net": "digits", "system": "ours", "format": "binary"}
    return Cell(**{**place, "load": load, "requests_per_s": rate, **fields})


def test_a_finished_cell_is_not_measured_again(tmp_path):
    file = tmp_path / "serving.csv"
    first = cell(rate=100.0, errors=2, note='a "note", with a comma')
    second = cell(load="c1", others_cores=0.8)
    store = Store(file)
    for measured in (first, second):
        store.add(measured)
    again = Store(file, calm=0.5)
    assert again.cells == {first.key: first, second.key: second}
    assert again.has(first.key)
    assert not again.has(second.key), "others used most of a core"
    again.drop(["digits"], ["ours"], ["binary"])
    assert Store(file).cells == {}


def test_plans_are_read_back(samples, tmp_path):
    requests = requests_for(Route("/", "json"), samples, "m")
    write_plan(tmp_path / "plan", requests, "127.0.0.1:80")
    host, found = read_plan(tmp_path / "plan")
    assert host == "127.0.0.1:80"
    assert [request.body for request in found] == [request.body for request in requests]


def test_medians_and_maximum_are_over_rounds():
    cells = [cell(rate=rate, round=number) for number, rate in enumerate([90.0, 300.0, 110.0])]
    cells += [cell(load="c1", rate=50.0), cell(load="o50", rate=1000.0)]
    assert medians(cells)["digits", "ours", "binary", "c64"].requests_per_s == 110
    assert maximum(cells, "digits", "ours", "binary") == 110
    ways = [cell(load=way, system=BARE, format="rows", rate=rate) for way, rate in (("a", 5.0), ("b", 7.0))]
    assert best_bare(medians(ways), "digits") == ("b", 7.0)


def test_targets_say_what_was_reached_and_what_was_not_measured():
    cells = [cell(rate=700.0), cell(system="hand", rate=100.0), cell(system="triton", rate=700.0)]
    text = "\n".join(targets(medians(cells), ["digits"]))
    assert "÷ hand | ≥ 7 | 7 | yes |" in text
    assert "÷ triton | ≥ 1.5 | 1 | no |" in text
    assert "÷ the echo | ≥ 0.55 | not measured |  |" in text


def test_the_table_says_why_a_peer_has_no_figures(options):
    failed = cell(
        load=FAILED, rate=0.0, system="hand", format="json", note="it ended while starting: no port"
    )
    measured = [cell(load=load) for load in ("c1", "c16", "c64")]
    text = render([failed, *measured], options, ["under conditions"])
    assert "| digits | binary | ours | 100 | 100 | 100 | 1.00 |" in text
    assert "| digits | json | hand | it ended while starting: no port |" in text
    assert "| digits | binary | mlserver | no binary tensors over HTTP" in text
    assert (
        "| digits | json | litserve | not installed: python -m benchmarks.serving install litserve |" in text
    )


def test_rounds_are_interleaved_and_open_loops_come_last(options):
    plan = list(steps(options))
    closed = [(step.number, step.system) for step in plan if "c64" in step.loads]
    assert closed == [(number, system) for number in (1, 2) for system in SYSTEMS]
    kinds = ["open" if "o50" in step.loads else "closed" for step in plan if len(step.loads) > 1]
    assert kinds == sorted(kinds)
    assert sum("memory" in step.loads for step in plan) == 1
