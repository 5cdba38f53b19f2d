"""Measurements of the service alone: overload, memory, and time to ready.

In: a running system or a bundle, an empty `Cell`.  Out: the cell; figures that others lack are in `extra`.

    overload   twice our maximum, each request with a deadline, over enough connections that none waits
    memory     resident bytes before and after a number of requests
    start      from exec to the first 200 of /v2/health/ready, compared with ONNX Runtime's import and session
"""

import contextlib
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.peers.net import free_port
from benchmarks.serving import open_loop, wrk
from benchmarks.serving.cores import Cores
from benchmarks.serving.measure import filled
from benchmarks.serving.processes import Server, accounting, resident_bytes
from benchmarks.serving.running import START_LIMIT_S, NotServing, RunningSystem
from benchmarks.serving.store import Cell
from benchmarks.serving.systems import OURS, ROOT

MAX_CONNECTIONS = 4096
MEMORY_WARM_UP = 0.1
MEMORY_CONNECTIONS = 64
STARTS = 3
POLL_S = 0.005
BARE_START = (
    "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
)


def overload(
    running: RunningSystem, cell: Cell, *, rate: float, seconds: float, deadline_s: float, cores: Cores
) -> Cell:
    """Send `rate` requests/s, more than the service can answer, each with a deadline."""
    folder = running.plan(cell.format, timeout_us=round(deadline_s * 1e6))
    wrk.drive(folder, 16, 1, cores.driver_prefix)
    with accounting() as account:
        outcome = open_loop.drive(
            folder,
            rate=rate,
            seconds=seconds,
            connections=round(min(max(64, 1.2 * rate * deadline_s), MAX_CONNECTIONS)),
            prefix=cores.driver_prefix,
            deadline_s=deadline_s,
            seed=cell.round,
        )
    return filled(cell, outcome, account)


def memory(running: RunningSystem, cell: Cell, *, num_requests: int, cores: Cores) -> Cell:
    """Measure resident bytes, after a tenth of the requests and after all of them."""
    folder = running.plan(cell.format)
    sent = errors = wrong = 0
    sizes: list[int] = []
    for limit in (MEMORY_WARM_UP * num_requests, (1 + MEMORY_WARM_UP) * num_requests):
        while sent < limit:
            measured = wrk.drive(folder, MEMORY_CONNECTIONS, 2, cores.driver_prefix)
            sent += measured.requests
            errors += measured.errors
            wrong += measured.wrong
        time.sleep(0.5)
        sizes.append(resident_bytes())
    extra = json.dumps({"before_mb": sizes[0] / 1e6, "after_mb": sizes[1] / 1e6})
    return replace(cell, requests=sent, errors=errors, wrong=wrong, extra=extra)


def start(cell: Cell, bundle: Path, cores: Cores, logs: Path) -> Cell:
    """Milliseconds until ready, and until ONNX Runtime alone has a session; medians of STARTS."""
    ready, bare = [], []
    for _ in range(STARTS):
        ready.append(_ready_s(bundle, cores, logs))
        begun = time.perf_counter()
        command = [sys.executable, "-c", BARE_START, str(bundle / "model.onnx")]
        subprocess.run([*cores.server_prefix, *command], check=True, stderr=subprocess.DEVNULL)
        bare.append(time.perf_counter() - begun)
    extra = json.dumps({"bare_ms": 1e3 * statistics.median(bare)})
    return replace(cell, requests=STARTS, p50_ms=1e3 * statistics.median(ready), extra=extra)


def _ready_s(bundle: Path, cores: Cores, logs: Path) -> float:
    with tempfile.TemporaryDirectory(prefix="serving_") as folder:
        (Path(folder) / bundle.parent.name).symlink_to(bundle.parent.resolve(), target_is_directory=True)
        port = free_port()
        command = OURS.command(
            peers=Path(), models=Path(folder), bundle=bundle, port=port, threads=cores.num_server
        )
        begun = time.perf_counter()
        server = Server([*cores.server_prefix, *command], logs / "start.log", ROOT)
        try:
            while time.perf_counter() - begun < START_LIMIT_S and not server.has_ended:
                if _is_ready(port):
                    return time.perf_counter() - begun
                time.sleep(POLL_S)
            raise NotServing(f"never ready: {server.last_line()}")
        finally:
            server.stop()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    return False
