"""Connections that always have more to do take turns: a few in each turn of the event loop, in order."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from in_process_kit import Inside, inside
from service.http.turns import AT_ONCE, TURN_S, Turns
from service_kit import wait_until
from wire_kit import EDGE_FLAGS, get, post, wire, works, write_echo


class Busy:
    """A channel that asks again in each of its turns."""

    def __init__(self, turns: Turns, taken: list["Busy"], begins: Callable[[], bool]) -> None:
        self._turns = turns
        self._taken = taken
        self._begins = begins

    def ask(self) -> None:
        self._turns.ask(cast(Any, self))

    def take_turn(self) -> bool:
        self._taken.append(self)
        self.ask()
        return self._begins()


def turns_of(count: int, num_loops: int, begins: Callable[[], bool]) -> list[list[int]]:
    """Which of `count` busy channels had their turn in each turn of an event loop."""
    rounds: list[list[int]] = []

    async def watch() -> None:
        taken: list[Busy] = []
        turns = Turns()
        channels = [Busy(turns, taken, begins) for _ in range(count)]
        for channel in channels:
            channel.ask()
        for _ in range(num_loops):
            before = len(taken)
            await asyncio.sleep(0)
            rounds.append([channels.index(channel) for channel in taken[before:]])

    asyncio.run(watch())
    return rounds


def test_a_few_have_their_turn_at_once_and_each_before_one_has_two() -> None:
    rounds = turns_of(10, 6, lambda: False)
    assert all(len(taken) <= AT_ONCE for taken in rounds)
    order = [number for taken in rounds for number in taken]
    assert order == [index % 10 for index in range(len(order))]
    assert len(order) >= 10


def test_one_that_has_begun_a_task_is_the_only_one() -> None:
    assert [len(taken) for taken in turns_of(3, 4, lambda: True)][1:] == [1, 1, 1]


def test_one_that_takes_long_is_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr("service.http.turns.time.perf_counter", lambda: next(clock) * 2 * TURN_S)
    assert [len(taken) for taken in turns_of(3, 4, lambda: False)][1:] == [1, 1, 1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    with inside(write_echo(tmp_path_factory.mktemp("turns")), *EDGE_FLAGS) as running:
        yield running


def test_others_are_answered_while_connections_flood(server: Inside) -> None:
    """Each of the flooding clients has all of its answers, in the end."""
    total, answers = 3000, [0] * 4
    flooded = threading.Event()

    def flood(number: int) -> None:
        with wire(server.port) as line:
            line.send(post(b"{}") * total)
            for _ in range(total):
                assert line.read().status == 400
                answers[number] += 1
                if answers[number] == 10:
                    flooded.set()

    threads = [threading.Thread(target=flood, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    assert flooded.wait(30)
    with wire(server.port) as other:
        assert works(other)
    assert sum(answers) < 4 * total
    for thread in threads:
        thread.join(60)
    assert answers == [total] * 4


def test_a_refused_client_that_has_sent_more_is_let_go_when_it_closes(server: Inside) -> None:
    """What it still sends is read, so that it can read why; its share of a turn does not stop that."""
    with wire(server.port) as line:
        line.sock.setblocking(False)
        for _ in range(64):
            try:
                line.sock.send(b"GET /" + b"%41" * (1 << 18))
            except (BlockingIOError, ConnectionError):
                break
    wait_until(lambda: not server.connections(), "nothing is left of it", timeout_s=1)


@pytest.mark.parametrize("path", ["/" + "%41" * 3000, "/predict?" + "top=1&" * 1500])
def test_a_long_target_is_refused(server: Inside, path: str) -> None:
    with wire(server.port) as line:
        answer = line.send(get(path)).read()
        assert (answer.status, "8192 bytes" in answer.json()["error"]) == (414, True)
        assert line.is_closed()


def test_a_target_as_long_as_may_be_is_answered(server: Inside) -> None:
    with wire(server.port) as line:
        assert line.send(get("/v2/health/live?" + "a" * 8000)).read().status == 200


def test_no_route_sees_cookies(server: Inside) -> None:
    """FastAPI would parse them for each request, 120 kB in 10 ms."""
    seen: list[tuple[bytes, bytes]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    shared = server.service.shared
    kept, shared.app = shared.app, app
    try:
        with wire(server.port) as line:
            assert line.send(get("/x", "Cookie: a=b", "accept: */*")).read().status == 204
    finally:
        shared.app = kept
    assert seen == [(b"host", b"x"), (b"accept", b"*/*")]
