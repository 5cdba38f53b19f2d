"""The request log: no entry is lost or kept for ever, and no request waits for the writing."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from queue import SimpleQueue

import pytest

from request_log_kit import AT_MOST_S, entry
from service.telemetry import request_log as module
from service.telemetry.request_log import RequestLog, Timed


@pytest.fixture(autouse=True)
def no_pause_and_no_thread_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "PAUSE_S", 0)
    yield
    assert [thread for thread in threading.enumerate() if thread.name == "request-log"] == []


class Sink:
    """Takes what it is given while its gate is open; `came` says that something came."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.gate = threading.Event()
        self.came: SimpleQueue[int] = SimpleQueue()
        self.taken: list[Timed] = []
        if is_open:
            self.gate.set()

    def __call__(self, entries: Sequence[Timed]) -> None:
        self.came.put(len(entries))
        assert self.gate.wait(AT_MOST_S)
        self.taken += entries

    @property
    def ids(self) -> list[bytes]:
        return [entry.id for _, entry in self.taken]


def test_an_entry_is_written_without_another_one_coming() -> None:
    sink = Sink()
    request_log = RequestLog([sink])
    for number in range(3):
        request_log.note(entry(number))
        assert sink.came.get(timeout=AT_MOST_S) == 1
    request_log.close()
    assert sink.ids == [b"id-0", b"id-1", b"id-2"]


def test_a_log_with_nothing_to_write_sleeps() -> None:
    written: SimpleQueue[None] = SimpleQueue()
    called_for_nothing = threading.Event()

    def sink(entries: Sequence[Timed]) -> None:
        if entries:
            written.put(None)
        else:
            called_for_nothing.set()

    request_log = RequestLog([sink])
    request_log.note(entry())
    written.get(timeout=AT_MOST_S)
    assert not called_for_nothing.wait(0.1)
    request_log.close()


def test_what_comes_while_the_thread_writes_is_written_next_and_in_order() -> None:
    sink = Sink(is_open=False)
    request_log = RequestLog([sink])
    request_log.note(entry(0))
    assert sink.came.get(timeout=AT_MOST_S) == 1
    for number in range(1, 100):
        request_log.note(entry(number))
    sink.gate.set()
    assert sink.came.get(timeout=AT_MOST_S) == 99
    request_log.close()
    assert sink.ids == [b"id-%d" % number for number in range(100)]


def test_case_31_a_sink_that_hangs_costs_entries_and_no_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 50)
    sink = Sink(is_open=False)
    request_log = RequestLog([sink])
    request_log.note(entry(0))
    assert sink.came.get(timeout=AT_MOST_S) == 1
    for number in range(1, 201):
        request_log.note(entry(number))
    assert request_log.num_lost == 150
    sink.gate.set()
    assert sink.came.get(timeout=AT_MOST_S) == 50
    request_log.note(entry(999))
    assert sink.came.get(timeout=AT_MOST_S) == 1
    request_log.close()
    assert sink.ids == [b"id-%d" % number for number in (*range(51), 999)]
    assert request_log.num_lost == 150
    assert [record.getMessage() for record in caplog.records] == ["event=journal_lost entries=150"]


def test_every_sink_gets_every_entry() -> None:
    sinks = [Sink(), Sink()]
    request_log = RequestLog(sinks)
    request_log.note(entry(1))
    request_log.note(entry(2))
    request_log.close()
    assert [sink.ids for sink in sinks] == [[b"id-1", b"id-2"]] * 2


def test_a_sink_that_raises_neither_ends_the_log_nor_costs_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # what counts is what is written

    def broken(entries: Sequence[Timed]) -> None:
        raise ValueError("I/O operation on closed file")

    sink = Sink()
    request_log = RequestLog([broken, sink])
    request_log.note(entry(1))
    with contextlib.suppress(Exception):
        sink.came.get(timeout=1)
    request_log.note(entry(2))
    request_log.close()
    assert sink.ids == [b"id-1", b"id-2"]


def test_closing_writes_what_came_while_the_thread_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink(is_open=False)
    request_log = RequestLog([sink])
    request_log.note(entry(1))
    assert sink.came.get(timeout=AT_MOST_S) == 1
    request_log.note(entry(2))
    join = threading.Thread.join

    def join_with_the_gate_open(thread: threading.Thread, timeout: float | None = None) -> None:
        sink.gate.set()
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", join_with_the_gate_open)
    request_log.close()
    assert sink.ids == [b"id-1", b"id-2"]


def test_closing_gives_up_on_a_sink_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink(is_open=False)
    request_log = RequestLog([sink])
    request_log.note(entry(1))
    assert sink.came.get(timeout=AT_MOST_S) == 1
    waited: list[float | None] = []
    join = threading.Thread.join

    def join_without_waiting(thread: threading.Thread, timeout: float | None = None) -> None:
        waited.append(timeout)
        join(thread, 0)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "join", join_without_waiting)
        request_log.close()
    assert None not in waited, "it would wait for ever"
    sink.gate.set()
    request_log.close()


def test_closing_a_log_in_which_nothing_was_noted_starts_no_thread() -> None:
    before = threading.active_count()
    RequestLog([Sink()]).close()
    assert threading.active_count() == before


def test_without_a_sink_nothing_is_kept_and_no_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 3)
    before = threading.active_count()
    request_log = RequestLog([])
    for number in range(10):
        request_log.note(entry(number))
    assert threading.active_count() == before
    assert request_log.num_lost == 0, "what isn't kept isn't too much"
    request_log.close()
