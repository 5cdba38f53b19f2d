"""Models that are loaded and unloaded while requests come: every answer is right, nothing is cut off.

`vector_32`: reload under load, no answer other than 200.
"""

import asyncio
import gzip
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from in_process_kit import PATIENCE_S, Inside, inside
from service.cgroup import usable_cores
from service.protocol.heavy import BinaryRequest
from service_kit import binary_body, read_answer, wait_until, x_request
from tiny_nets import echo_net, write_bundle
from wire_kit import post

INFER = "/v2/models/echo/infer"
FLAGS = ("--model-control", "--lanes", "1", "--threads", "1", "--shutdown-timeout-s", "5")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Inside]:
    write_bundle(tmp_path / "models" / "echo" / "1", echo_net("float32"))
    with inside(tmp_path / "models", *FLAGS) as running:
        yield running


def control(server: Inside, verb: str) -> int:
    return httpx.post(f"{server.url}/v2/repository/models/echo/{verb}", timeout=60).status_code


class Askers:
    """Threads that ask until told to stop, each with numbers of its own, and check every answer."""

    def __init__(self, server: Inside, count: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.versions: set[str] = set()
        self.wrong: list[str] = []
        self._server = server
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(count)]

    def __enter__(self) -> "Askers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def wait_for(self, more: int) -> None:
        """As many more answers."""
        target = sum(self.statuses.values()) + more
        wait_until(lambda: bool(self.wrong) or sum(self.statuses.values()) >= target, "they are answered")

    def _ask(self, number: int) -> None:
        chance = np.random.default_rng(number)
        with httpx.Client(base_url=self._server.url, timeout=60) as client:
            while not self._is_over.is_set() and not self.wrong:
                rows = chance.normal(size=(int(chance.integers(1, 5)), 3)).astype(np.float32)
                try:
                    self._check(client, rows)
                except Exception as error:
                    self.wrong.append(repr(error))

    def _check(self, client: httpx.Client, rows: np.ndarray) -> None:
        tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32"}
        tensor["parameters"] = {"binary_data_size": rows.nbytes}
        body, headers = binary_body({"inputs": [tensor]}, rows.tobytes())
        if len(rows) == 4:  # the slow way in
            body, headers = gzip.compress(body), {**headers, "Content-Encoding": "gzip"}
        answer = client.post(INFER, content=body, headers=headers)
        self.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            told, arrays = read_answer(answer.headers, answer.content)
            self.versions.add(told["model_version"])
            np.testing.assert_array_equal(arrays["y"], rows)


def test_vector_32_reload_under_load(tmp_path: Path, server: Inside) -> None:
    with Askers(server, 6) as askers:
        askers.wait_for(20)
        for version in range(2, 8):
            write_bundle(tmp_path / "models" / "echo" / str(version), echo_net("float32"))
            assert control(server, "load") == 200
            askers.wait_for(20)
        assert control(server, "load") == 200  # the same version again
        askers.wait_for(20)
    assert askers.wrong == []
    assert list(askers.statuses) == [200]
    assert askers.versions == {"1", "2", "3", "4", "5", "6", "7"}
    wait_until(lambda: not server.service.models._retiring, "the old versions have gone")
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("engine-echo")]
    wait_until(lambda: len(engine_threads()) == 1, f"their threads have gone: {names}")


def engine_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("engine-echo")]


def test_case_24_concurrent_load_and_unload(server: Inside) -> None:
    with Askers(server, 4) as askers, ThreadPoolExecutor(4) as threads:
        verbs = ["load", "unload"] * 12
        assert set(threads.map(lambda verb: control(server, verb), verbs)) == {200}
        assert control(server, "load") == 200
        askers.wait_for(20)
    assert askers.wrong == []
    assert set(askers.statuses) <= {200, 503}
    assert httpx.post(server.url + INFER, json=x_request([1, 2, 3])).status_code == 200
    wait_until(lambda: len(engine_threads()) == 1, "the threads of those unloaded have gone")


def test_unload_lets_what_was_accepted_finish(server: Inside) -> None:
    with server.held("echo") as gate, ThreadPoolExecutor(4) as threads:
        batcher = server.served("echo").batcher
        first = threads.submit(httpx.post, server.url + INFER, json=x_request([1, 2, 3]))
        gate.wait_for_batch()
        second = threads.submit(httpx.post, server.url + INFER, json=x_request([4, 5, 6]))
        wait_until(lambda: batcher.waiting_rows == 1, "it waits")
        assert control(server, "unload") == 200
        third = httpx.post(server.url + INFER, json=x_request([7, 8, 9]))
        assert third.status_code == 503
        gate.open()
        data = [future.result().json()["outputs"][0]["data"] for future in (first, second)]
    assert data == [[1, 2, 3], [4, 5, 6]]


def hold_readers(server: Inside) -> threading.Event:
    """Neither threads nor processes read requests until the event is set."""
    may_go_on = threading.Event()
    for _ in range(usable_cores()):
        server.service.threads.submit(may_go_on.wait, PATIENCE_S)
    read = server.service.heavy.read

    async def read_later(*arguments: Any) -> BinaryRequest:
        await asyncio.to_thread(may_go_on.wait, PATIENCE_S)
        return await read(*arguments)

    server.service.heavy.read = read_later  # type: ignore[method-assign]
    return may_go_on


LONG = json.dumps(x_request([1, 2, 3])).encode() + b" " * 300_000
SHORT = gzip.compress(json.dumps(x_request([1, 2, 3])).encode())


@pytest.mark.parametrize(
    ("body", "headers"), [(SHORT, {"Content-Encoding": "gzip"}), (LONG, {})], ids=["gzip", "long JSON"]
)
def test_what_is_being_read_elsewhere_during_the_swap_is_answered(
    tmp_path: Path, server: Inside, body: bytes, headers: dict[str, str]
) -> None:
    may_go_on = hold_readers(server)
    write_bundle(tmp_path / "models" / "echo" / "2", echo_net("float32"))
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(httpx.post, server.url + INFER, content=body, headers=headers, timeout=60)
        try:
            wait_until(lambda: bool(server.service.shared.endpoint._tasks), "it is being read")
            assert control(server, "load") == 200
            assert httpx.post(server.url + INFER, json=x_request([1, 2, 3])).json()["model_version"] == "2"
        finally:
            may_go_on.set()
        answer = asked.result()
    assert (answer.status_code, answer.json().get("model_version")) == (200, "1"), answer.text
    assert answer.json()["outputs"][0]["data"] == [1, 2, 3]


async def test_a_client_that_goes_while_its_body_is_read_in_a_process_is_counted(server: Inside) -> None:
    may_go_on = hold_readers(server)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post(LONG))
    await asyncio.to_thread(server.has_read_everything)
    writer.close()
    await writer.wait_closed()
    failures = server.service.models.metrics.failures
    await asyncio.to_thread(wait_until, lambda: failures["echo", "hung_up"] == 1, "it is counted at once")
    may_go_on.set()
    assert server.served("echo").metrics.executions == 0


async def test_what_waits_for_a_thread_is_dropped_when_its_client_goes(server: Inside) -> None:
    may_go_on = threading.Event()
    for _ in range(usable_cores()):
        server.service.threads.submit(may_go_on.wait, PATIENCE_S)
    read: list[object] = []
    server.served("echo").parser.parse = lambda *arguments: read.append(arguments)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post(gzip.compress(json.dumps(x_request([1, 2, 3])).encode()), "content-encoding: gzip"))
    await asyncio.to_thread(server.has_read_everything)
    writer.close()
    await writer.wait_closed()
    wait_until(lambda: not server.connections(), "it is gone")
    may_go_on.set()
    failures = server.service.models.metrics.failures
    wait_until(lambda: failures["echo", "hung_up"] == 1, "it is counted")
    assert read == []
