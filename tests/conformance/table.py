"""A table of servers × vectors from what `--table FILE` wrote.

python tests/conformance/table.py Triton=triton.json foldserve=ours.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from conformance.vectors import VECTORS, vector_of

Row = dict[str, Any]


class Recorder:
    """A plugin that notes the outcome of every vector's tests, and writes them down at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, Row] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid.rpartition("::")[2]
        vector = vector_of(test)
        if vector is None or (report.when != "call" and report.passed):
            return
        row = self._rows.setdefault(report.nodeid, {"vector": vector, "test": test})
        row["outcome"] = report.outcome
        row["reason"] = _reason(report)
        row["notes"] = [value for name, value in report.user_properties if name == "note"]

    def pytest_sessionfinish(self) -> None:
        rows = sorted(self._rows.values(), key=lambda row: row["vector"])
        self._path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _reason(report: pytest.TestReport) -> str:
    if report.passed:
        return ""
    if report.skipped:
        assert isinstance(report.longrepr, tuple)
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    message = crash.message if crash is not None else str(report.longrepr)
    return str(message).removeprefix("AssertionError: ").splitlines()[0][:300]


def cell(rows: list[Row]) -> str:
    """One vector at one server: yes, with notes where it chose otherwise; no, how many of how many; or –."""
    ran = [row for row in rows if row["outcome"] != "skipped"]
    failed = [row for row in ran if row["outcome"] == "failed"]
    if not ran:
        return "–"
    if failed:
        return "**no**" if len(failed) == len(ran) else f"**{len(ran) - len(failed)} of {len(ran)}**"
    notes = sorted({note for row in ran for note in row["notes"]})
    return f"yes ({'; '.join(notes)})" if notes else "yes"


def markdown(servers: dict[str, list[Row]]) -> str:
    """The table."""
    lines = [f"| vector | {' | '.join(servers)} |", "|---|" + "---|" * len(servers)]
    for vector, title in VECTORS.items():
        cells = [cell([row for row in rows if row["vector"] == vector]) for rows in servers.values()]
        lines.append(f"| {vector}. {title} | {' | '.join(cells)} |")
    sums = [_sum(rows) for rows in servers.values()]
    lines.append(f"| tests passed, failed, skipped | {' | '.join(sums)} |")
    return "\n".join(lines)


def _sum(rows: list[Row]) -> str:
    outcomes = [row["outcome"] for row in rows]
    return ", ".join(str(outcomes.count(outcome)) for outcome in ("passed", "failed", "skipped"))


if __name__ == "__main__":
    named = dict(argument.split("=", 1) for argument in sys.argv[1:])
    tables = {name: json.loads(Path(file).read_text(encoding="utf-8")) for name, file in named.items()}
    print(markdown(tables))
