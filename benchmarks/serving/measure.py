"""Measurements that every system gets: closed loops, open loops, and ONNX Runtime alone.

In: a `Stage`, an empty `Cell`, what its load means.  Out: the cell, with its figures.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.serving import open_loop, wrk
from benchmarks.serving.cores import Cores
from benchmarks.serving.open_loop import Outcome
from benchmarks.serving.processes import Account, accounting
from benchmarks.serving.stage import NotServing, Stage
from benchmarks.serving.store import Cell
from benchmarks.serving.systems import BARE, ROOT

WARM_UP = 0.3  # of a measurement's seconds
OPEN_CONNECTIONS = 64
WARM_CONNECTIONS = 16


def closed(stage: Stage, cell: Cell, *, connections: int, seconds: float, cores: Cores) -> Cell:
    """wrk at so many connections, warmed up."""
    folder = stage.plan(cell.format)
    wrk.drive(folder, connections, WARM_UP * seconds, cores.driver_prefix)
    with accounting() as account:
        measured = wrk.drive(folder, connections, seconds, cores.driver_prefix)
    return replace(
        cell,
        requests=measured.requests,
        requests_per_s=measured.requests_per_s,
        p50_ms=measured.p50_ms,
        p99_ms=measured.p99_ms,
        cpu_s_per_1000=1000 * account.server_s / max(measured.requests, 1),
        others_cores=account.others_cores,
        errors=measured.errors,
        wrong=measured.wrong,
        note=measured.example,
    )


def opened(stage: Stage, cell: Cell, *, rate: float, seconds: float, cores: Cores) -> Cell:
    """So many requests a second, whatever becomes of them, warmed up."""
    folder = stage.plan(cell.format)
    wrk.drive(folder, WARM_CONNECTIONS, WARM_UP * seconds, cores.driver_prefix)
    with accounting() as account:
        outcome = open_loop.drive(
            folder,
            rate=rate,
            seconds=seconds,
            connections=OPEN_CONNECTIONS,
            prefix=cores.driver_prefix,
            seed=cell.round,
        )
    return filled(cell, outcome, account)


def filled(cell: Cell, outcome: Outcome, account: Account) -> Cell:
    """The cell with the figures of an open loop."""
    return replace(
        cell,
        requests=outcome.requests,
        requests_per_s=outcome.answered_per_s,
        p50_ms=outcome.p50_ms,
        p99_ms=outcome.p99_ms,
        cpu_s_per_1000=1000 * account.server_s / max(outcome.requests, 1),
        others_cores=account.others_cores,
        errors=outcome.requests - outcome.right - outcome.wrong,
        wrong=outcome.wrong,
        note=outcome.example,
        extra=json.dumps(asdict(outcome)),
    )


def bare(bundle: Path, number: int, net: str, seconds: float, cores: Cores) -> Iterator[Cell]:
    """ONNX Runtime alone, a cell for each way."""
    command = [*cores.server_prefix, sys.executable, "-m", "benchmarks.serving.bare", str(bundle)]
    with accounting() as account:
        told = subprocess.run(
            [*command, "--seconds", f"{seconds:g}"], cwd=ROOT, capture_output=True, text=True, check=False
        )
    if told.returncode:
        raise NotServing(told.stderr.strip().splitlines()[-1])
    for line in told.stdout.splitlines():
        way = json.loads(line)
        yield Cell(
            round=number,
            net=net,
            system=BARE,
            format="rows",
            load=f"{way['callers']} x {way['threads']} threads, batches of {way['batch']}",
            requests_per_s=way["rows_per_s"],
            others_cores=account.others_cores,
        )
