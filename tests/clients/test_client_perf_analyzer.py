"""perf_analyzer, unmodified: concurrency and request rate, binary and JSON. docs/protocol.md, 6.12."""

import csv
import os
import subprocess
from pathlib import Path

import pytest

from extras import NEEDED, PERF_ANALYZER, perf_analyzer_environment
from service_kit import Server

pytestmark = [
    pytest.mark.skipif(PERF_ANALYZER is None, reason=f"perf_analyzer is {NEEDED}"),
    pytest.mark.alone,  # it repeats a measurement until it is stable
]

BRIEF = ("--measurement-mode=count_windows", "--measurement-request-count=40", "--stability-percentage=999")


def analysed(server: Server, room: Path, *options: str) -> dict[str, float]:
    """What it measured, from its table; a request that failed would end it with an error."""
    table = room / "table.csv"
    ran = subprocess.run(
        [str(PERF_ANALYZER), "-i", "http", "-u", f"127.0.0.1:{server.port}", "-f", table, *BRIEF, *options],
        env={**os.environ, **perf_analyzer_environment()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "failed" not in ran.stderr.lower(), ran.stderr
    (row,) = csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    return {name: float(value) for name, value in row.items() if value}


def check(row: dict[str, float]) -> None:
    """Answers came, and so did our statistics: every server column that it computes from them is there."""
    assert row["Inferences/Second"] > 0
    assert row["p95 latency"] > 0
    for part in ("Queue", "Compute Input", "Compute Infer", "Compute Output"):
        assert row[f"Server {part}"] >= 0
    assert row["Server Compute Infer"] > 0


def test_concurrency(server: Server, tmp_path: Path) -> None:
    row = analysed(server, tmp_path, "-m", "digits", "--concurrency-range=4", "--percentile=95")
    assert row["Concurrency"] == 4
    check(row)


def test_request_rate(server: Server, tmp_path: Path) -> None:
    row = analysed(server, tmp_path, "-m", "digits", "--request-rate-range=50", "--percentile=95")
    assert row["Request Rate"] == 50
    check(row)


def test_rows_in_each_request(server: Server, tmp_path: Path) -> None:
    """It drops the first dimension because the configuration says that the model takes batches."""
    check(analysed(server, tmp_path, "-m", "digits", "-b", "8", "--concurrency-range=2"))


def test_two_inputs_and_a_version(server: Server, tmp_path: Path) -> None:
    check(analysed(server, tmp_path, "-m", "pair", "-x", "1", "--concurrency-range=2"))


def test_json_both_ways(server: Server, tmp_path: Path) -> None:
    """With zeros: its random floats are random bits, some of them NaN, which is no JSON (6.6.11)."""
    formats = ("--input-tensor-format=json", "--output-tensor-format=json")
    check(analysed(server, tmp_path, "-m", "digits", *formats, "--input-data=zero"))


@pytest.mark.parametrize("model", ["echo-uint8", "echo-int8", "echo-int64", "echo-float16", "echo-float64"])
def test_other_datatypes(server: Server, tmp_path: Path, model: str) -> None:
    check(analysed(server, tmp_path, "-m", model, "--concurrency-range=1"))


def test_booleans(server: Server, tmp_path: Path) -> None:
    """With zeros: its random booleans are any byte, and ours are 0 or 1 (6.8.5)."""
    check(analysed(server, tmp_path, "-m", "echo-bool", "--input-data=zero"))
