"""The serving benchmark: a wrong answer is noticed by both drivers, and figures are what was measured."""

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import numpy as np
import orjson
import pytest
import uvloop

from benchmarks.serving import wrk
from benchmarks.serving.answers import Numbers, Picture, Same, Tail
from benchmarks.serving.bars import bars
from benchmarks.serving.cores import share_out
from benchmarks.serving.driver import Driver, Trace, poisson
from benchmarks.serving.medians import best_bare, maximum, medians
from benchmarks.serving.open_loop import outcome
from benchmarks.serving.plan import read_plan, write_plan
from benchmarks.serving.samples import Samples, choose_apart
from benchmarks.serving.steps import Options, steps
from benchmarks.serving.store import FAILED, Cell, Store
from benchmarks.serving.systems import BARE, FORMATS, SYSTEMS
from benchmarks.serving.table import render
from benchmarks.serving.wire import WIRES, Request, Route, echoed, requests_for

TOLERANCE = 1e-3
ONE_PICTURE = b'{"predictions":[{"label":"a","probability":0.9}]}'
Answer = Callable[[bytes], tuple[int, bytes]]
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is missing: apt-get install wrk")


@pytest.fixture
def samples() -> Samples:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    return Samples(
        input_name="x",
        rows=rows,
        answers=rows[:, :2].astype(np.float64),
        tolerance=TOLERANCE,
        pictures=[b"one", b"two", b"three"],
        labels=["a", "b", "a"],
        probabilities=[0.9, 0.8, 0.5],
    )


@pytest.fixture
def options(tmp_path) -> Options:
    return Options(
        nets=["digits"],
        systems=[BARE, *SYSTEMS],
        formats=list(FORMATS),
        phases=["closed", "open", "ours"],
        rounds=2,
        scale=1.0,
        memory_requests=1000,
        cores=share_out("shared"),
        models=tmp_path,
        made=tmp_path,
        peers=tmp_path,
        out=tmp_path,
        logs=tmp_path,
        calm=0.5,
    )


async def serve(answer: Answer, *, closes: bool = False) -> asyncio.Server:
    """HTTP/1.1 with a body for a body; with `closes`, one request a connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
                status, body = answer(await reader.readexactly(length))
                last = b"Connection: close\r\n" if closes else b""
                head = b"HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n" % (status, last, len(body))
                writer.write(head + body)
                await writer.drain()
                if closes:
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    return await asyncio.start_server(talk, "127.0.0.1", 0)


@contextmanager
def served(answer: Answer) -> Iterator[int]:
    """The same in a thread; its port."""
    told: Queue[tuple[int, Callable[[], object]]] = Queue()

    async def run() -> None:
        over, loop = asyncio.Event(), asyncio.get_running_loop()
        async with await serve(answer) as server:
            told.put((server.sockets[0].getsockname()[1], lambda: loop.call_soon_threadsafe(over.set)))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    port, stop = told.get()
    try:
        yield port
    finally:
        stop()
        thread.join()


def right(body: bytes) -> tuple[int, bytes]:
    """The first two of the row's floats, as the samples' net answers."""
    return 200, b"head" + body[:8]


def of_row_0(body: bytes) -> tuple[int, bytes]:
    return 200, np.array([0, 1], "<f4").tobytes()


@pytest.mark.parametrize(
    ("expected", "good", "bad"),
    [
        (Tail(np.array([1.0, 2.0]), TOLERANCE), np.array([1, 2], "<f4").tobytes(), b"\0" * 8),
        (Tail(np.array([1.0, 2.0]), TOLERANCE), b"x" + np.array([1, 2.0005], "<f4").tobytes(), b"\0" * 4),
        (
            Tail(np.array([1.0]), TOLERANCE),
            np.array([1], "<f4").tobytes(),
            np.array([np.nan], "<f4").tobytes(),
        ),
        (Numbers("logits", np.array([1.0, 2.0]), TOLERANCE), b'{"logits":[1,2.0]}', b'{"logits":[2,1]}'),
        (Numbers("data", np.array([1.0]), TOLERANCE), b'{"outputs":[{"data":[1]}]}', b'{"outputs":[]}'),
        (Numbers("", np.array([1.0, 2.0]), TOLERANCE), b"[[1,2]]", b"[[1,2,3]]"),
        (Numbers("logits", np.array([1.0]), TOLERANCE), b'{"logits":[1.0]}', b"nonsense"),
        (Picture("7", 0.9), b'{"label":"7","probability":0.91}', b'{"label":"7","probability":0.8}'),
        (Picture("7", 0.9), b'{"label": "7", "probability": 0.9}', b'{"label":"1","probability":0.9}'),
        (Same(b"x"), b"x", b"y"),
    ],
)
def test_a_right_answer_holds_and_a_wrong_one_does_not(expected, good, bad):
    assert expected.holds(good)
    assert not expected.holds(bad)


@pytest.mark.parametrize("wire", WIRES)
def test_every_wire_asks_once_for_each_sample(samples, wire):
    requests = requests_for(Route("/v2/models/{model}/infer", wire), samples, "m")
    assert len(requests) == 3
    assert len({request.body for request in requests}) == 3
    assert all(request.path == "/v2/models/m/infer" for request in requests)
    head, _, body = requests[1].raw("127.0.0.1:1").partition(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"


def test_a_deadline_goes_into_the_request(samples):
    (request, *_) = requests_for(Route("/", "oip_binary"), samples, "m", timeout_us=5000)
    head = request.body[: int(request.headers["Inference-Header-Content-Length"])]
    assert orjson.loads(head)["parameters"]["timeout"] == 5000


def test_rows_that_could_be_taken_for_another_are_left_out():
    answers = np.array([[0.0], [0.05], [1.0], [1.02], [2.0]])
    assert choose_apart(answers, 0.1) == [0, 2, 4]
    with pytest.raises(ValueError, match="all alike"):
        choose_apart(answers[:2], 0.1)


def test_what_wrk_prints_is_read():
    told = 'Running 1s test\nMEASURED {"requests":120,"duration_us":2000000,"p50_us":1500,"p99_us":9000,'
    told += '"broken":1,"refused":20,"wrong":3,"example":"503 busy"}\n'
    measured = wrk.parse(told)
    assert (measured.requests_per_s, measured.p50_ms, measured.p99_ms) == (50.0, 1.5, 9.0)
    assert (measured.errors, measured.wrong, measured.example) == (21, 3, "503 busy")


def all_wrk(folder: Path, cases: dict[str, tuple[Answer, list[Request], int]]) -> dict[str, wrk.Measured]:
    """A second of wrk for each case, all at once: the server's answer, requests, connections."""

    def one(name: str) -> wrk.Measured:
        answer, requests, connections = cases[name]
        with served(answer) as port:
            write_plan(folder / name, requests, f"127.0.0.1:{port}")
            return wrk.drive(folder / name, connections, 1, [])

    with ThreadPoolExecutor(len(cases)) as pool:
        return dict(zip(cases, pool.map(one, cases), strict=True))


@needs_wrk
def test_wrk_notices_the_answer_to_anothers_row(samples, tmp_path):
    requests = requests_for(Route("/", "raw"), samples, "m")
    cases = {
        f"{name} {connections}": (answer, requests, connections)
        for name, answer in {"right": right, "of row 0": of_row_0}.items()
        for connections in (1, 32)
    }
    for name, measured in all_wrk(tmp_path, cases).items():
        assert measured.requests > 50
        assert measured.errors == 0
        share = measured.wrong / measured.requests
        assert share == 0 if name.startswith("right") else 0.4 < share < 0.9, name


@needs_wrk
def test_wrk_checks_json_pictures_and_echoes(samples, tmp_path):
    json, rows, pictures = (
        requests_for(Route("/", wire), samples, "m") for wire in ("json", "rows", "multipart")
    )
    cases: dict[str, tuple[Answer, list[Request], int]] = {
        "json": (
            lambda body: (200, b'{"logits": %s}' % orjson.dumps(orjson.loads(body)["row"][:2])),
            json,
            1,
        ),
        "rows": (lambda body: (200, orjson.dumps([orjson.loads(body)["rows"][0][:2]])), rows, 1),
        "too many": (lambda body: (200, orjson.dumps(orjson.loads(body)["rows"])), rows, 1),
        "one of 3": (lambda body: (200, ONE_PICTURE), pictures, 1),
        "echo": (lambda body: (200, body), echoed(json), 1),
        "refused": (lambda body: (503, b"busy"), json, 1),
    }
    found = all_wrk(tmp_path, cases)
    shares = {name: measured.wrong / measured.requests for name, measured in found.items()}
    assert shares["one of 3"] == pytest.approx(2 / 3, abs=0.1)
    assert {**shares, "one of 3": 0} == {**dict.fromkeys(cases, 0), "too many": 1}
    assert found["refused"].errors == found["refused"].requests
    assert found["refused"].requests_per_s == 0
    assert found["refused"].example == "503 busy"


def driven(
    answer: Answer, requests: list[Request], due: np.ndarray, connections: int, **server: bool
) -> Trace:
    """The open loop against a server of the same loop."""

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
    told = outcome(driven(right, requests, due, connections=8), requests)
    assert (told.requests, told.right, told.wrong, told.statuses) == (300, 300, 0, {"200": 300})
    told = outcome(driven(of_row_0, requests, due, connections=8), requests)
    assert (told.right, told.wrong) == (100, 200)
    assert told.example.startswith("200 b'")


def test_the_open_loop_goes_on_when_connections_end(samples):
    requests = requests_for(Route("/", "raw"), samples, "m")
    trace = driven(right, requests, poisson(500, 0.1, seed=1), connections=2, closes=True)
    assert (trace.status == 200).all()


def test_what_waits_for_a_connection_waits_on_the_clients_account(samples):
    requests = requests_for(Route("/", "raw"), samples, "m")
    trace = driven(right, requests, np.zeros(20), connections=1)
    assert trace.waited.tolist() == [False] + [True] * 19
    assert (np.diff(trace.sent) >= 0).all()
    assert (trace.sent[1:] >= trace.done[:-1]).all()
    told = outcome(trace, requests)
    assert told.waited == 19
    assert told.p99_ms >= told.alone_p99_ms


def test_refusals_are_no_answers(samples):
    requests = requests_for(Route("/", "raw"), samples, "m")
    trace = driven(lambda body: (503, b"busy"), requests, np.zeros(6), connections=3)
    told = outcome(trace, requests, deadline_s=1.0)
    assert (told.right, told.wrong, told.met, told.refused) == (0, 0, 0, 6)
    assert told.refused_p99_ms > 0


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
    assert not again.has(second.key), "others had most of a core"
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


def test_bars_say_what_was_reached_and_what_was_not_measured():
    cells = [cell(rate=700.0), cell(system="hand", rate=100.0), cell(system="triton", rate=700.0)]
    text = "\n".join(bars(medians(cells), ["digits"]))
    assert "times hand | ≥ 7 | 7 | yes |" in text
    assert "times triton | ≥ 1.5 | 1 | no |" in text
    assert "of the echo | ≥ 0.55 | not measured |  |" in text


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
