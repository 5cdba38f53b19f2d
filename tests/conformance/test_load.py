"""Vectors 22, 23, 24, 31, 32, 33: a full queue, deadlines, clients that hang up, leaks, reloads, the end."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from conformance.asking import LENGTH, Model, Request, answered, error_of
from conformance.memory import resident_mb
from conformance.wire import Connection, Reply, ask_once, settle

Refused = Callable[..., str]
Option = Callable[[str], Any]


class Crowd:
    """Requests to the slow model, each on a connection of its own, all under way at once."""

    def __init__(self, url: str, model: Model, slow_value: float) -> None:
        self._url = url
        self._model = model
        self._slow_value = slow_value

    def request(self, value: float, **parameters: Any) -> Request:
        rows = {name: np.full_like(array, value) for name, array in self._model.rows(1).items()}
        return self._model.request(rows, **({"parameters": parameters} if parameters else {}))

    def ask(self, value: float = 1, **parameters: Any) -> Connection:
        """Send one; its answer can be waited for later."""
        request = self.request(value, **parameters)
        connection = Connection(self._url)
        connection.send("POST", self._model.path, request.body, request.headers)
        return connection

    def occupy(self) -> Connection:
        """Send one that keeps the model busy, and wait until it does."""
        busy = self.ask(self._slow_value)
        settle(self._url)
        return busy

    def ask_slowly(self) -> Connection:
        return self.ask(self._slow_value)

    @staticmethod
    def answers(connections: list[Connection]) -> list[Reply]:
        replies = []
        for connection in connections:
            with connection:
                replies.append(connection.receive())
        return replies


@pytest.fixture
def crowd(url: str, slow: Model, request: pytest.FixtureRequest) -> Crowd:
    return Crowd(url, slow, request.config.getoption("--slow-value"))


def test_vector_22_a_full_queue(
    url: str, crowd: Crowd, slow: Model, option: Option, choose: Callable[..., Any]
) -> None:
    """6.9: those that do not fit get 503 and Retry-After [US], all others their answer.

    A server may hold a batch ready beside its queue, so how many fit is its own affair.
    """
    too_many = option("--slow-queue") + 8
    waiting = [Connection(url) for _ in range(too_many)]  # open before, so that all are sent while it is busy
    request = crowd.request(1)
    busy = crowd.occupy()
    for connection in waiting:
        connection.send("POST", slow.path, request.body, request.headers)
    replies = crowd.answers([busy, *waiting])
    refusals = [reply for reply in replies if reply.status_code != 200]
    assert refusals, f"all of {len(replies)} were answered"
    assert {reply.status_code for reply in refusals} == {503}
    for reply in refusals:
        error_of(reply)
        choose(
            "Retry-After" if "retry-after" in reply.headers else "no Retry-After",
            "Retry-After",
            "no Retry-After",
        )
    slow.works()


def test_vector_23_a_timeout_passes(crowd: Crowd, slow: Model, choose: Callable[..., Any]) -> None:
    """6.6.14, 6.9: 1 µs behind a busy model, 504 [US] (503 Triton, 408 Ray); its neighbours are answered."""
    if "schedule_policy" not in slow.client.get("/v2").json()["extensions"]:
        pytest.skip("needs the schedule_policy extension")
    before, mate = crowd.occupy(), crowd.ask()
    late, other = crowd.ask(timeout=1), crowd.ask()
    replies = crowd.answers([before, mate, late, other])
    assert [reply.status_code for reply in (replies[0], replies[1], replies[3])] == [200] * 3
    choose(replies[2].status_code, 504, 503, 408)
    error_of(replies[2])
    slow.works()


def rows_run(model: Model) -> int:
    """How many rows the model's statistics say it ran."""
    answer = model.client.get(f"/v2/models/{quote(model.name, safe='')}/stats")
    if answer.status_code == 404:
        pytest.skip("needs the statistics extension")
    return sum(int(version["inference_count"]) for version in answer.json()["model_stats"])


def test_vector_24_a_client_that_hangs_up_while_it_waits(url: str, crowd: Crowd, slow: Model) -> None:
    """6.13: its row is never executed."""
    before = rows_run(slow)
    busy = crowd.occupy()
    with crowd.ask_slowly():
        settle(url)
    settle(url)
    assert [reply.status_code for reply in crowd.answers([busy, crowd.ask()])] == [200, 200]
    assert rows_run(slow) - before == 2


def test_vector_31_invalid_headers_leave_nothing_behind(url: str, model: Model, option: Option) -> None:
    """6.13: 1000 requests of 64 KiB whose header is wrong; 64 MiB, were their bodies kept."""
    pid = option("--pid")
    body = bytes(64 * 1024)

    def ask(times: int) -> None:
        for number in range(times):
            value = ("-1", "x", str(2**40), str(len(body) + 1))[number % 4]
            assert ask_once(url, "POST", model.path, body, {LENGTH: value}).status_code >= 400

    ask(300)  # whatever grows once
    before = resident_mb(pid)
    ask(1000)
    assert resident_mb(pid) - before < 16
    model.works()


def test_vector_32_reload_under_load(url: str, model: Model, option: Option) -> None:
    """6.10.3: while the model is loaded again, every request is answered."""
    option("--control")
    is_over = threading.Event()
    request = model.request()

    def ask() -> list[int]:
        statuses = []
        with Connection(url) as connection:
            while not is_over.is_set():
                statuses.append(connection.ask("POST", model.path, request.body, request.headers).status_code)
        return statuses

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask) for _ in range(4)]
        try:
            for _ in range(5):
                load = f"/v2/repository/models/{quote(model.name, safe='')}/load"
                reply = ask_once(url, "POST", load)
                assert reply.status_code == 200, f"load: {reply.status_code} {reply.content[:200]!r}"
        finally:
            is_over.set()
        statuses = [status for future in asking for status in future.result()]
    assert len(statuses) > 5
    assert set(statuses) == {200}
    model.works()


def test_vector_33_sigterm_under_load(url: str, crowd: Crowd, option: Option) -> None:
    """6.3: what was accepted is answered, on every connection. The server ends."""
    option("--may-end")
    busy = crowd.occupy()
    waiting = [crowd.ask() for _ in range(4)]
    settle(url)
    os.kill(option("--pid"), signal.SIGTERM)
    replies = crowd.answers([busy, *waiting])
    assert [reply.status_code for reply in replies] == [200] * 5
    for reply in replies:
        answered(reply)
