"""Our service against the conformance vectors, by foldserve's choices: in our own server, and under uvicorn.

The suite itself, which takes any server, is in tests/conformance.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conformance.tensors import NUMPY
from conformance.vectors import VECTORS

from service_kit import ROOT, Hosted, Server, every_net, serving
from tiny_nets import busy_net, digits_net, nudged, write_bundle

ECHOES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
NOT_SERVED = {
    f"needs --model-of {datatype}=NAME" for datatype in ("UINT16", "UINT32", "UINT64", "BF16", "BYTES")
}  # no net that a bundle may hold has such inputs


PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def run_suite(table: Path, *options: str) -> list[dict[str, Any]]:
    """Its outcomes."""
    ran = run(*PYTEST, "tests/conformance", "--table", str(table), *options)
    assert ran.returncode in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), ran.stdout + ran.stderr
    outcomes: list[dict[str, Any]] = json.loads(table.read_text(encoding="utf-8"))
    return outcomes


@pytest.fixture(scope="module", params=[Server, Hosted], ids=["our server", "uvicorn"])
def rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The outcome of every test of the suite under one HTTP server."""
    kind: type[Server] = request.param
    room = tmp_path_factory.mktemp("conformance")
    models = every_net(room / "models")
    write_bundle(models / "busy" / "1", busy_net())
    write_bundle(room / "broken" / "wrong" / "1", digits_net(), graph=nudged(digits_net()))
    echoes = [f"--model-of={datatype}=echo-{dtype}" for datatype, dtype in ECHOES.items()]
    flags = ("--queue-rows", "256", "--max-body-mb", "8", "--threads", "1")
    control = {"FOLDSERVE_MODEL_CONTROL": "true"}
    with (
        serving(models, *flags, environment=control, kind=kind) as server,
        serving(room / "broken") as broken,
    ):
        outcomes = run_suite(
            room / "table.json",
            *("--url", server.url, "--model", "digits", "--our-choices", *echoes),
            *("--pair-model", "pair", "--quoted-model", "a model", "--nan-model", "log"),
            *("--slow-model", "busy", "--slow-value", "24000", "--slow-queue", "256"),
            *("--max-rows", "256", "--max-body-mb", "8"),
            *("--unready", broken.url, "wrong", "--control", "--pid", str(server.process.pid), "--may-end"),
        )
        assert server.wait() == kind.EXIT_CODE, "the last vector ends the server"
    return outcomes


@pytest.mark.parametrize("vector", VECTORS)
def test_our_server(rows: list[dict[str, Any]], vector: int) -> None:
    tests = [row for row in rows if row["vector"] == vector]
    assert [f"{row['test']}: {row['reason']}" for row in tests if row["outcome"] == "failed"] == []
    assert any(row["outcome"] == "passed" for row in tests), f"nothing was asked: {tests}"
    skipped = {row["reason"] for row in tests if row["outcome"] == "skipped"}
    assert skipped <= NOT_SERVED
    assert [row["test"] for row in tests if row["notes"]] == [], "we do what we chose"


def outcomes_at(room: Path, says: str) -> dict[str, str]:
    """The outcome of every test at a server that answers everything alike."""
    server = subprocess.Popen(
        [sys.executable, "tests/kits/constant_server.py", says],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        outcomes = run_suite(
            room / f"{says}.json",
            *("--url", url, "--model", "digits", "--our-choices", "--pair-model", "pair"),
            *("--quoted-model", "a model", "--nan-model", "log", "--slow-model", "busy", "--slow-queue", "8"),
            *("--max-rows", "256", "--max-body-mb", "8", "--unready", url, "wrong", "--control"),
            *("--pid", str(server.pid), "--may-end"),
            *(f"--model-of={datatype}=echo-{datatype}" for datatype in NUMPY),
        )
        assert server.wait(10) != 0, "the last vector ends it"
    finally:
        server.kill()
        server.communicate()
    return {row["test"]: row["outcome"] for row in outcomes}


def test_every_test_of_the_suite_can_fail(tmp_path: Path) -> None:
    """At a server that says yes to everything, or at one that says no."""
    yes, no = outcomes_at(tmp_path, "yes"), outcomes_at(tmp_path, "no")
    assert len(yes) > 150
    assert [test for test in yes if "failed" not in (yes[test], no[test])] == []
    assert sum(outcome == "passed" for outcome in yes.values()) > 30, "it is plausible"


def test_without_a_url_nothing_is_collected() -> None:
    """The project's own run of all tests needs no server."""
    others = [path for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "conformance"]
    listed = run(*PYTEST, "--collect-only", "tests", *(f"--ignore={path}" for path in others))
    assert listed.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, listed.stdout + listed.stderr


def test_the_suite_says_that_it_needs_a_url() -> None:
    ran = run(*PYTEST, "tests/conformance")
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--url http://host:port" in ran.stderr


def test_the_table_of_results(tmp_path: Path) -> None:
    """Two servers side by side: all passed, in part, none, otherwise, and not asked."""
    ours = [
        {"vector": 1, "test": "a", "outcome": "passed", "reason": "", "notes": []},
        {"vector": 2, "test": "b", "outcome": "passed", "reason": "", "notes": ["400", "503"]},
    ]
    theirs = [
        {"vector": 1, "test": "a", "outcome": "passed", "reason": "", "notes": []},
        {"vector": 1, "test": "b", "outcome": "failed", "reason": "x", "notes": []},
        {"vector": 2, "test": "b", "outcome": "failed", "reason": "x", "notes": []},
        {"vector": 3, "test": "c", "outcome": "skipped", "reason": "x", "notes": []},
    ]
    for name, table in {"ours": ours, "theirs": theirs}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(table))
    named = [f"{name}={tmp_path}/{name}.json" for name in ("ours", "theirs")]
    printed = run("tests/conformance/table.py", *named).stdout.splitlines()
    assert printed[0] == "| vector | ours | theirs |"
    assert printed[2].endswith("| yes | **1 of 2** |")
    assert printed[3].endswith("| yes (400; 503) | **no** |")
    assert printed[4].endswith("| – | – |")
    assert printed[-1].endswith("| 2, 0, 0 | 1, 2, 1 |")
    assert len(printed) == 2 + len(VECTORS) + 1
