"""The serving benchmark: both drivers detect a wrong answer, and figures are as measured."""

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

from benchmarks.serving import wrk
from benchmarks.serving.answers import Numbers, Picture, Same, Tail
from benchmarks.serving.plan import write_plan
from benchmarks.serving.samples import choose_distinct
from benchmarks.serving.wire import WIRES, Request, Route, echoed, requests_for
from serving_benchmark_kit import TOLERANCE, Answer, of_row_0, right, serve

ONE_PICTURE = b'{"predictions":[{"label":"a","probability":0.9}]}'
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is missing: apt-get install wrk")


@contextmanager
def served(answer: Answer) -> Iterator[int]:
    """Run the server in a thread; yields its port."""
    output: Queue[tuple[int, Callable[[], object]]] = Queue()

    async def run() -> None:
        over, loop = asyncio.Event(), asyncio.get_running_loop()
        async with await serve(answer) as server:
            output.put((server.sockets[0].getsockname()[1], lambda: loop.call_soon_threadsafe(over.set)))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    port, stop = output.get()
    try:
        yield port
    finally:
        stop()
        thread.join()


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
def test_every_wire_makes_one_request_per_sample(samples, wire):
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


def test_rows_that_could_be_confused_are_left_out():
    answers = np.array([[0.0], [0.05], [1.0], [1.02], [2.0]])
    assert choose_distinct(answers, 0.1) == [0, 2, 4]
    with pytest.raises(ValueError, match="all alike"):
        choose_distinct(answers[:2], 0.1)


def test_what_wrk_prints_is_read():
    output = 'Running 1s test\nMEASURED {"requests":120,"duration_us":2000000,"p50_us":1500,"p99_us":9000,'
    output += '"broken":1,"refused":20,"wrong":3,"example":"503 busy"}\n'
    measured = wrk.parse(output)
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
@pytest.mark.alone
def test_wrk_detects_the_answer_to_another_row(samples, tmp_path):
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
@pytest.mark.alone
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
