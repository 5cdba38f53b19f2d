"""The request_log's lines: one for each request, keys and values, whatever a client calls its request."""

import io
import json
import logging
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from request_log_kit import AT, AT_MOST_S, entry, parsed, written
from service.errors import BadRequest
from service.routes.request_record import RequestRecorder
from service.telemetry.metrics import Metrics
from service.telemetry.request_log import (
    JsonFormatter,
    LogEntry,
    RequestLog,
    Timed,
    failures,
    write_json,
    write_lines,
)


def test_a_line_is_a_time_a_level_and_pairs() -> None:
    text = written([(AT, entry(7)), (AT + 1, entry(8, 503))])
    common = {"event": "request", "route": "infer", "model": "digits", "version": "3", "rows": "2"} | {
        f"{phase}_ms": f"{seconds}.000"
        for phase, seconds in zip(("read", "decode", "queue", "compute", "encode"), range(1, 6), strict=True)
    }
    assert list(parsed(text)) == [
        common
        | {"when": "2026-11-21T19:27:50.123Z", "level": "INFO", "id": "id-7", "status": "200"}
        | {"total_ms": "15.400"},
        common
        | {"when": "2026-11-21T19:27:51.123Z", "level": "WARNING", "id": "id-8", "status": "503"}
        | {"total_ms": "15.400", "reason": "overloaded"},
    ]


def test_failures_alone_are_written_where_only_they_are_wanted() -> None:
    statuses = [200, 503, 200, 400, 504, 499, 200]
    entries = [(AT, entry(number, status)) for number, status in enumerate(statuses)]
    failed = [line["status"] for line in parsed(written(entries, failures(write_lines)))]
    assert failed == ["503", "400", "504", "499"]
    assert [line["status"] for line in parsed(written(entries))] == [str(status) for status in statuses]
    assert written([(AT, entry(1))], failures(write_lines)) == ""


def test_many_lines_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[str] = []

    class Stderr(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Stderr())
    write_lines([])
    assert writes == []
    write_lines([(AT, entry(number)) for number in range(100)])
    assert [text.count("\n") for text in writes] == [100]


def test_a_stderr_that_nobody_reads_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError("no reader")

    monkeypatch.setattr(sys, "stderr", Broken())
    write_lines([(AT, entry())])


def test_every_entry_becomes_one_line_however_many_note_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr("service.telemetry.request_log.PAUSE_S", 0)
    request_log = RequestLog([write_lines])
    start = threading.Barrier(4)

    def note(first: int) -> None:
        start.wait(AT_MOST_S)
        for number in range(first, first + 500):
            request_log.note(entry(number))

    noting = [threading.Thread(target=note, args=(first,)) for first in range(0, 2000, 500)]
    for thread in noting:
        thread.start()
    for thread in noting:
        thread.join(AT_MOST_S)
    request_log.close()
    ids = [int(line["id"].removeprefix("id-")) for line in parsed(stderr.getvalue())]
    assert sorted(ids) == list(range(2000))
    for first in range(0, 2000, 500):
        own = [number for number in ids if first <= number < first + 500]
        assert own == sorted(own)


class Keeping(RequestLog):
    """A request_log without a thread."""

    taken: list[Timed]
    is_read = True

    def __init__(self) -> None:
        pass

    def note(self, entry: LogEntry) -> None:
        self.taken = [(AT, entry)]


HOSTILE = [
    b"a\nb",
    b"a\r\nx-injected: 1",
    b"a status=200",
    b"a\x85b",
    b"a\xe2\x80\xa8b",
    b"\x1b[31m",
    b"a\x00b",
    b"a\x7fb",
    b"",
    b"x" * 129,
    b"id-1\n",
]


@settings(max_examples=300)
@given(
    given_id=st.one_of(
        st.sampled_from(HOSTILE), st.binary(max_size=140), st.text(max_size=60).map(str.encode)
    )
)
def test_no_request_id_breaks_a_line(given_id: bytes) -> None:
    request_log = Keeping()
    recorder = RequestRecorder(Metrics(), request_log)
    record = recorder.open("infer", given_id, 0.0)
    recorder.failed(record, BadRequest("never in the request_log\n"))
    (line,) = parsed(written(request_log.taken))
    assert line["id"].encode() == record.id
    assert (line["status"], line["reason"], line["route"]) == ("400", "bad_request", "infer")
    assert line["id"].isascii()
    assert line["id"].isprintable()
    assert record.head == b"x-request-id: %b\r\n" % record.id
    is_fine = 1 <= len(given_id) <= 128 and all(0x21 <= byte <= 0x7E for byte in given_id)
    assert (record.id == given_id) == is_fine


@pytest.mark.parametrize("given_id", [None, *HOSTILE], ids=repr)
def test_who_brings_no_usable_id_gets_a_new_one(given_id: bytes | None) -> None:
    recorder, other = RequestRecorder(Metrics(), RequestLog([])), RequestRecorder(Metrics(), RequestLog([]))
    ids = {recorder.open("infer", given_id, 0.0).id for _ in range(100)}
    ids |= {other.open("infer", given_id, 0.0).id for _ in range(100)}
    assert len(ids) == 200
    assert given_id not in ids


@pytest.mark.parametrize("given_id", [b"a", b"x" * 128, b"!~", b"7f1e=\"';,{}"], ids=repr)
def test_a_usable_id_is_kept(given_id: bytes) -> None:
    assert RequestRecorder(Metrics(), RequestLog([])).open("infer", given_id, 0.0).id == given_id


def test_a_json_line_says_what_the_text_says() -> None:
    entries = [(AT, entry(1)), (AT, entry(2, 503))]
    (first, second) = (json.loads(line) for line in written(entries, write_json).splitlines())
    assert (first["level"], second["level"], second["reason"]) == ("INFO", "WARNING", "overloaded")
    for told, line in zip((first, second), parsed(written(entries, write_lines)), strict=True):
        assert {name: float(told[name]) for name in told if name.endswith("_ms")} == {
            name: float(line[name]) for name in line if name.endswith("_ms")
        }
        assert str(told["status"]) == str(line["status"])


def test_every_record_of_the_log_becomes_one_json_object() -> None:
    record = logging.LogRecord(
        "foldserve", logging.ERROR, "x", 1, "event=refused model=%s reason=%r", ("m", "a b"), None
    )
    told = json.loads(JsonFormatter().format(record))
    assert (told["event"], told["model"], told["reason"], told["level"]) == ("refused", "m", "a b", "ERROR")
    plain = logging.LogRecord("asyncio", logging.WARNING, "x", 1, "two\nlines", (), None)
    assert json.loads(JsonFormatter().format(plain))["message"] == "two\nlines"
