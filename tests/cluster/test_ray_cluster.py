"""deploy/ray on a real cluster, each node in a network namespace of its own: what a killed node costs.

`make test` runs a short form, `make test-cluster` a longer one; Ray comes with `make test-extras`.
"""

import json
import subprocess
from typing import Any

import numpy as np
import pyarrow
import pytest

import extras
import netns_kit
from benchmarks.ray_cluster import CONNECTIONS, account
from service_kit import ROOT


def answered(*keys: int, wrong: tuple[int, ...] = ()) -> pyarrow.Table:
    """Answers to these rows of four, some of them wrong."""
    outputs = [[key + (0.25 if key in wrong else 0.0)] for key in keys]
    return pyarrow.table({"key": [str(key) for key in keys], "output.y": outputs})


@pytest.mark.parametrize(
    ("answers", "differs"),
    [
        (answered(3, 0, 2, 1), {}),
        (answered(0, 1, 2, 3, 3), {"once": 3, "repeated": 1, "right": 5}),
        (answered(0, 1, 3), {"once": 3, "missing": 1, "right": 3}),
        (answered(0, 1, 2, 3, wrong=(2,)), {"right": 3}),
        (answered(0, 1, 1, 2), {"once": 2, "repeated": 1, "missing": 1}),
    ],
)
def test_rows_that_are_missing_repeated_or_wrong_are_counted(
    answers: pyarrow.Table, differs: dict[str, int]
) -> None:
    rows = np.arange(4, dtype=np.float32)[:, None]
    assert account(answers, rows) == {"once": 4, "repeated": 0, "missing": 0, "right": 4} | differs


def measured(*flags: str) -> dict[str, Any]:
    """What `benchmarks.ray_cluster` found with these flags."""
    command = [str(extras.RAY_PYTHON), "-m", "benchmarks.ray_cluster", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        stdout, stderr = process.communicate()
    finally:
        process.terminate()  # it ends its nodes then
        process.wait(60)
    assert process.returncode == 0, stderr[-5000:]
    print(stdout.splitlines()[-1])  # for -s: the figures of benchmarks/results/ray.md
    facts: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return facts


def assert_claims(facts: dict[str, Any], rows: int) -> None:
    """What a lost node and a redeployment may cost."""
    assert facts["redeployed"]["failures"] == {}
    assert facts["redeployed"]["right"] > 100
    for fault in ("killed", "cut off"):
        for who, got in facts.get(fault, {}).items():
            num_failures = sum(got["failures"].values())
            assert num_failures <= (CONNECTIONS if who.endswith("once") else 0), (fault, who, got)
            assert got["right"] > 100, (fault, who, got)
            assert num_failures > 0 or who != "its own proxy, asked once", f"the proxy was not {fault}"
    expected = {"once": rows, "repeated": 0, "missing": 0, "right": rows}
    assert {name: facts["bulk"][name] for name in expected} == expected
    assert 0 < facts["bulk"]["files when a node was killed"] < facts["bulk"]["files"] / 2, facts["bulk"]


def got(**failures: int) -> dict[str, Any]:
    """What clients got."""
    return {"right": 500, "failures": failures}


@pytest.mark.parametrize(
    "wrong",
    [
        {"redeployed": got(EOF=1)},
        {"redeployed": {"right": 0, "failures": {}}},
        {"killed": {"the head's proxy, asked once": got(EOF=CONNECTIONS, wrong=1)}},
        {"killed": {"its own proxy, asked once": got()}},
        {"killed": {"its own proxy, asked twice": got(EOF=1)}},
        {"cut off": {"its own proxy, asked twice": got(TimeoutError=1)}},
        *(
            {"bulk": {name: value}}
            for name, value in [("once", 9), ("repeated", 1), ("missing", 1), ("right", 9)]
        ),
        {"bulk": {"files when a node was killed": 10}},
    ],
)
def test_each_claim_can_fail(wrong: dict[str, Any]) -> None:
    facts = {
        "redeployed": got(),
        "killed": {
            "the head's proxy, asked once": got(EOF=CONNECTIONS),
            "its own proxy, asked once": got(EOF=CONNECTIONS),
            "its own proxy, asked twice": got(),
        },
        "bulk": {
            "once": 10,
            "repeated": 0,
            "missing": 0,
            "right": 10,
            "files": 20,
            "files when a node was killed": 1,
        },
    }
    assert_claims(facts, 10)
    ((part, values),) = wrong.items()
    with pytest.raises(AssertionError):
        assert_claims(facts | {part: facts.get(part, {}) | values}, 10)


@pytest.mark.alone
@pytest.mark.parametrize(
    ("rows", "flags"),
    [
        (60_000, ["--seconds", "1"]),
        pytest.param(600_000, ["--seconds", "15", "--cut"], marks=pytest.mark.cluster),
    ],
)
def test_a_node_lost_costs_bulk_nothing_and_clients_with_a_retry_nothing(rows: int, flags: list[str]) -> None:
    if extras.RAY_PYTHON is None:
        pytest.skip(f"ray: {extras.NEEDED}")
    facts = measured("--rows", str(rows), *flags)
    reason = netns_kit.why_not()
    assert facts["nodes"] == ("network namespaces" if reason is None else f"one address: {reason}")
    assert ("its own proxy, asked once" in facts["killed"]) == (reason is None)
    assert ("cut off" in facts) == (reason is None and "--cut" in flags)
    assert_claims(facts, rows)
