"""Measurements of every system: closed loops, open loops, and ONNX Runtime alone.

In: a running system, an empty `Cell`, the parameters of its load.  Out: the cell, with its figures.
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
from benchmarks.serving.running import NotServing, RunningSystem
from benchmarks.serving.store import Cell
from benchmarks.serving.systems import BARE, ROOT

WARM_UP = 0.3  # share of a measurement's seconds
OPEN_CONNECTIONS = 64
WARM_CONNECTIONS = 16


def closed(running: RunningSystem, cell: Cell, *, connections: int, seconds: float, cores: Cores) -> Cell:
    """Drive with wrk over `connections` for `seconds`, after a warm-up."""
    folder = running.plan(cell.format)
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


def opened(running: RunningSystem, cell: Cell, *, rate: float, seconds: float, cores: Cores) -> Cell:
    """Send `rate` requests/s for `seconds`, whether or not they are answered, after a warm-up."""
    folder = running.plan(cell.format)
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
    """Measure ONNX Runtime alone; yields a cell for each configuration."""
    command = [*cores.server_prefix, sys.executable, "-m", "benchmarks.serving.bare", str(bundle)]
    with accounting() as account:
        finished = subprocess.run(
            [*command, "--seconds", f"{seconds:g}"], cwd=ROOT, capture_output=True, text=True, check=False
        )
    if finished.returncode:
        raise NotServing(finished.stderr.strip().splitlines()[-1])
    for line in finished.stdout.splitlines():
        found = json.loads(line)
        yield Cell(
            round=number,
            net=net,
            system=BARE,
            format="rows",
            load=f"{found['callers']} x {found['threads']} threads, batches of {found['batch']}",
            requests_per_s=found["rows_per_s"],
            others_cores=account.others_cores,
        )
