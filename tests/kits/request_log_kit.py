"""Entries of a request log, and what was written of them, read back."""

import contextlib
import io
from collections.abc import Iterator, Sequence

from service.telemetry.request_log import LogEntry, Sink, Timed, write_lines

AT_MOST_S = 20  # nothing takes long unless it is broken
AT = 1795289270.1239


def entry(number: int = 0, status: int = 200) -> LogEntry:
    return LogEntry(
        *("infer", b"id-%d" % number, "digits", "3", status, "" if status == 200 else "overloaded", 2),
        *(0.001, 0.002, 0.003, 0.004, 0.005, 0.0154),
    )


def parsed(text: str) -> Iterator[dict[str, str]]:
    """Each line as its keys and values; no key twice, nothing that is neither."""
    assert text == "" or text.endswith("\n")
    for line in text.split("\n")[:-1]:
        when, level, *pairs = line.split(" ")
        split = [pair.partition("=") for pair in pairs]
        assert all(key and equals for key, equals, _ in split), line
        values = {key: value for key, _, value in split}
        assert len(values) == len(pairs), line
        yield {"when": when, "level": level, **values}


def written(entries: Sequence[Timed], write: Sink = write_lines) -> str:
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        write(entries)
    return stderr.getvalue()
