"""The request log: what became of each request, one line each, written off the hot path.

In: a `LogEntry` for each request.  Out: lines on stderr, and spans where there is tracing, by another thread.

    2026-11-21T19:27:50.123Z INFO event=request route=infer id=… model=digits version=1 status=200 rows=1 …

Noting an entry is an append to a list. If the thread cannot keep up, entries are dropped, and counted.
"""

import contextlib
import json
import logging
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

MAX_KEPT = 100_000
PAUSE_S = 0.2


class LogEntry(NamedTuple):
    """One request and how it ended: `reason` is "" where `status` is 200; `…_s` are seconds."""

    route: str
    id: bytes
    model: str
    version: str
    status: int
    reason: str
    num_rows: int
    read_s: float
    decode_s: float
    queue_s: float
    compute_s: float
    encode_s: float
    total_s: float
    trace_parent: bytes | None = None


_log = logging.getLogger("foldserve")

Timed = tuple[float, LogEntry]
Sink = Callable[[Sequence[Timed]], None]


class RequestLog:
    """Collects entries; each of `sinks` gets them in batches, in a thread that starts with the first entry.

    `at_end` are called once by `close`, after the last batch. Without sinks nothing is kept.
    """

    def __init__(self, sinks: Sequence[Sink], at_end: Sequence[Callable[[], object]] = ()) -> None:
        self._sinks = sinks
        self.is_read = bool(sinks)
        self._at_end = at_end
        self._kept: deque[Timed] = deque()
        self._has_some = threading.Event()
        self._is_closing = False
        self._writer: threading.Thread | None = None
        self.num_lost = 0

    def note(self, entry: LogEntry) -> None:
        """Keep an entry for the thread, with the time of day; dropped and counted while MAX_KEPT wait."""
        if not self.is_read:
            return
        if len(self._kept) >= MAX_KEPT:
            self.num_lost += 1
            return
        self._kept.append((time.time(), entry))
        if len(self._kept) == 1:
            if self._writer is None:
                self._writer = threading.Thread(target=self._work, name="request-log", daemon=True)
                self._writer.start()
            self._has_some.set()

    def close(self) -> None:
        """Write what is left and end the thread; gives up on a sink that takes longer than 5 s."""
        self._is_closing = True
        self._has_some.set()
        if self._writer is not None:
            self._writer.join(5)
        for end in self._at_end:
            end()

    def _work(self) -> None:
        num_lost_reported = 0
        while self._kept or not self._is_closing:
            self._has_some.wait()
            if not self._is_closing:
                time.sleep(PAUSE_S)  # one write for many lines: a write per line costs a quarter of the rate
                self._has_some.clear()  # before the list is read, or an entry noted meanwhile would wait
            entries: list[Timed] = []
            while self._kept:  # until it is empty: only the first entry of a batch sets the event
                entries.append(self._kept.popleft())
            if lost := self.num_lost - num_lost_reported:
                num_lost_reported += lost
                _log.warning("event=journal_lost entries=%d", lost)
            for sink in self._sinks:
                try:
                    sink(entries)
                except Exception:
                    _log.exception("event=journal_failed entries=%d", len(entries))


def failures(sink: Sink) -> Sink:
    """A sink that is given only the entries whose status is not 200."""
    return lambda entries: sink([timed for timed in entries if timed[1].status != 200])


def write_lines(entries: Sequence[Timed]) -> None:
    """Write a line on stderr for each entry, all in one write."""
    lines = []
    for at, entry in entries:
        facts = facts_of(entry)
        level = "INFO" if entry.status == 200 else "WARNING"
        told = " ".join(
            f"{name}={value:.3f}" if isinstance(value, float) else f"{name}={value}"
            for name, value in facts.items()
        )
        lines.append(f"{time_text(at)} {level} {told}\n")
    _write(lines)


def write_json(entries: Sequence[Timed]) -> None:
    """Write a JSON object a line on stderr for each entry, all in one write."""
    lines = []
    for at, entry in entries:
        level = "INFO" if entry.status == 200 else "WARNING"
        lines.append(json.dumps({"time": time_text(at), "level": level, **facts_of(entry)}) + "\n")
    _write(lines)


def facts_of(entry: LogEntry) -> dict[str, str | int | float]:
    """What a line says of a request, in its order; durations in milliseconds."""
    return {
        "event": "request",
        "route": entry.route,
        "id": entry.id.decode(),
        "model": entry.model,
        "version": entry.version,
        "status": entry.status,
        **({} if entry.status == 200 else {"reason": entry.reason}),
        "rows": entry.num_rows,
        **{
            f"{phase}_ms": round(getattr(entry, f"{phase}_s") * 1e3, 3)
            for phase in ("read", "decode", "queue", "compute", "encode", "total")
        },
    }


def time_text(at: float) -> str:
    """Seconds since 1970 as a log's time of day, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class JsonFormatter(logging.Formatter):
    """A record of `logging` as one JSON object; `event` and the words after it become members."""

    _WORD = re.compile(r"(\w+)=('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\S*)")

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        message = record.getMessage()
        words = dict(self._WORD.findall(message)) if message.startswith("event=") else {"message": message}
        members = {name: value.strip("'\"") for name, value in words.items()}
        if record.exc_info:
            members["trace"] = self.formatException(record.exc_info)
        return json.dumps({"time": time_text(record.created), "level": record.levelname, **members})


def _write(lines: Sequence[str]) -> None:
    if not lines:
        return
    with contextlib.suppress(OSError):  # the reader of our stderr has gone
        sys.stderr.write("".join(lines))
        sys.stderr.flush()
