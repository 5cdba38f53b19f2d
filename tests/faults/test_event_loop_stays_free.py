"""The event loop computes nothing for long, whatever one client sends: a monitor in the loop itself holds it.

What is measured is the processor time of the loop's thread from one turn to the next, which other processes
on the machine do not change; the server runs its sources here, which take longer than the compiled ones.
"""

import contextlib
import gc
import gzip
import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from test_one_client_json import INPUT, keys
from test_one_client_multipart import ATTACKS

from benchmarks.attacks.pictures import form, png, scan_bomb, webp
from in_process_kit import Inside, inside
from service.models.memory import map_large_blocks
from service.processes.worker import spare_the_collector
from service_kit import binary_body
from tiny_nets import digits_net, echo_net, write_bundle
from wire_kit import get, post, wire

pytestmark = pytest.mark.alone  # it measures
KB, MB = 1 << 10, 1 << 20
WIDE = 16_000
MAX_COMPUTED_S = 0.010  # 5 ms for the compiled service; its sources, which run here, take up to twice as long
CHUNKED = b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
DATA = b'{"inputs":[{"name":"input","datatype":"FP32","shape":[1,1,28,28],"data":['


def freeing_s() -> float:
    """What it takes to give the memory of a 60 MB body back to the system: the loop does so at its end."""
    seconds = []
    for _ in range(3):
        body = bytearray(b"x") * (60 * MB)
        begun_s = time.thread_time()
        del body
        seconds.append(time.thread_time() - begun_s)
    return max(seconds)


MAX_TURN_S = MAX_COMPUTED_S + 2 * freeing_s()  # as received, and as it was joined or decompressed


class LoopMonitor:
    """Wakes up in every turn of an event loop, a millisecond apart; `worst_s` between two turns so far."""

    def __init__(self, server: Inside) -> None:
        self._server = server
        self.worst_s = 0.0
        self._last_s = 0.0
        self._is_over = False

    def __enter__(self) -> "LoopMonitor":
        # Each httpx client leaves a TLS context, which takes a millisecond to free: not in the server's loop.
        gc.collect()
        self._server.on_loop(self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True

    def _begin(self) -> None:
        self._last_s = time.thread_time()
        self._wake()

    def _wake(self) -> None:
        now_s = time.thread_time()
        self.worst_s = max(self.worst_s, now_s - self._last_s)
        self._last_s = now_s
        if not self._is_over:
            self._server.loop.call_later(0.001, self._wake)


def worst_turn_s(server: Inside, attack: Callable[[], object]) -> float:
    """The longest turn while `attack` runs; the least of three, for other programs only ever add to it."""
    worst = []
    for _ in range(3):
        with LoopMonitor(server) as monitor:
            attack()
        worst.append(monitor.worst_s)
        if monitor.worst_s < MAX_TURN_S:
            break
    return min(worst)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    models = tmp_path_factory.mktemp("models")
    write_bundle(models / "digits" / "1", digits_net())
    write_bundle(models / "wide" / "1", echo_net("float32", [WIDE]))
    thresholds = gc.get_threshold()
    with inside(models) as running:
        # As a worker does: else the collector would walk through all that tests have imported.
        spare_the_collector()
        gc.disable()  # a pass would walk through what pytest has made since: a service has none of that
        httpx.post(f"{running.url}/predict", content=b"")  # what is imported with the first one
        map_large_blocks()
        yield running
        gc.enable()
        gc.unfreeze()
        gc.set_threshold(*thresholds)


BODIES = {
    "keys": b"{" + INPUT + b',"parameters":{' + keys(13_000) + b"}}",
    "many keys": b"{" + INPUT + b',"parameters":{' + keys(100_000) + b"}}",
    "lists": b'{"inputs":[' + b"[]," * (42 * KB) + b"[]]}",
    "inputs": b'{"inputs":[' + b",".join([INPUT[10:-1]] * 60) + b"]}",
    "strings": DATA + b'"ab",' * (12 * MB) + b'"ab"]}]}',
    "numbers": DATA + b"1.5," * (15 * MB) + b"1.5]}]}",
    "nested": DATA + b"[1,1,1,1]," * (6 * MB) + b"[1]]}]}",
    "deep": b'{"inputs":' + b"[" * (120 * KB),
}


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("name", BODIES)
def test_json(server: Inside, name: str, is_compressed: bool) -> None:
    body = gzip.compress(BODIES[name], 1) if is_compressed else BODIES[name]
    headers = {"content-encoding": "gzip"} if is_compressed else {}

    def attack() -> None:
        url = f"{server.url}/v2/models/digits/infer"
        assert httpx.post(url, content=body, headers=headers, timeout=120).status_code in (200, 400)

    assert worst_turn_s(server, attack) < MAX_TURN_S


def test_compressed_pictures(server: Inside) -> None:
    """60 kB that become 60 MB of nothing, for a route that inflates in a thread of the service."""
    body, headers = gzip.compress(bytes(60 * MB), 1), {"content-encoding": "gzip"}

    def attack() -> None:
        answer = httpx.post(f"{server.url}/predict", content=body, headers=headers, timeout=120)
        assert answer.status_code == 400

    assert worst_turn_s(server, attack) < MAX_TURN_S


@pytest.mark.parametrize("name", ATTACKS)
def test_forms(server: Inside, name: str) -> None:
    content_type, body, status, _ = ATTACKS[name]
    headers = {"content-type": content_type}

    def attack() -> None:
        answer = httpx.post(f"{server.url}/predict", content=body, headers=headers, timeout=120)
        assert answer.status_code == status

    assert worst_turn_s(server, attack) < MAX_TURN_S


def test_pictures(server: Inside) -> None:
    """The process that decodes is there already: to fork all that tests have imported takes 40 ms."""
    assert httpx.post(f"{server.url}/predict", content=webp(4000, 4000), timeout=120).status_code == 200
    body, headers = form([webp(2000, 2000)] * 30)

    def attack() -> None:
        for picture in (webp(4000, 4000), png(3000, 3000, depth=16), scan_bomb(20)):
            httpx.post(f"{server.url}/predict", content=picture, timeout=120)
        answer = httpx.post(f"{server.url}/predict", content=body, headers=headers, timeout=120)
        assert answer.status_code == 200

    assert worst_turn_s(server, attack) < MAX_TURN_S


@pytest.mark.parametrize("parameters", [{}, {"binary_data": True}, {"classification": 100}])
def test_long_answers(server: Inside, parameters: dict[str, int]) -> None:
    """A million numbers: 10 MB of JSON, which orjson would print in 30 ms without letting go of the lock."""
    rows = np.random.default_rng(1).normal(size=(64, WIDE)).astype("<f4")
    tensor = {"name": "x", "shape": [64, WIDE], "datatype": "FP32"}
    inputs = [{**tensor, "parameters": {"binary_data_size": rows.nbytes}}]
    outputs = [{"name": "y", "parameters": parameters}]
    content, headers = binary_body({"inputs": inputs, "outputs": outputs}, rows.tobytes())

    def attack() -> None:
        url = f"{server.url}/v2/models/wide/infer"
        answer = httpx.post(url, content=content, headers=headers, timeout=120)
        assert answer.status_code == 200, answer.text[:300]

    assert worst_turn_s(server, attack) < MAX_TURN_S


@pytest.mark.parametrize(
    "content",
    [
        get("/v2/health/live") * 5000,
        post(b"{}", path="/v2/models/digits/infer") * 5000,
        b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        + b"1\r\nx\r\n" * MB
        + b"0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * MB,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * MB,
        b"GET /" + b"%41" * MB + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=["pipelined", "pipelined-infer", "chunks", "trailers", "headers", "url"],
)
def test_framing(server: Inside, content: bytes) -> None:
    def attack() -> None:
        with wire(server.port) as line:
            with contextlib.suppress(ConnectionError, AssertionError):  # refused, closed while it still sends
                line.send(content).read()
            assert httpx.get(f"{server.url}/v2/health/live").status_code == 200

    assert worst_turn_s(server, attack) < MAX_TURN_S


def test_the_monitor_sees_a_loop_that_computes(server: Inside) -> None:
    """The negative control."""

    def compute() -> None:
        until_s = time.thread_time() + 2 * MAX_TURN_S
        while time.thread_time() < until_s:
            pass

    with LoopMonitor(server) as monitor:
        server.on_loop(compute)
        server.on_loop(lambda: None)
        time.sleep(0.05)
    assert monitor.worst_s > MAX_TURN_S
