"""The closed loop: wrk, with a script that checks every answer.

In: a folder of requests (plan.py), a number of connections, seconds.  Out: `Measured`.

At most 16 threads; each sends all requests in turn over one connection, or one request over several:
an answer to another request's row is always detected.

wrk corrects its percentiles for requests that it did not send during a stall, assuming the mean rate.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("check.lua")
MAX_THREADS = 16
TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The driver's counts and latencies; `errors` are answers other than 200, and broken connections."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    wrong: int
    example: str = ""


def drive(folder: Path, connections: int, seconds: float, prefix: list[str]) -> Measured:
    """Run wrk for whole seconds; `prefix` is the command before it, such as taskset's."""
    threads = min(connections, MAX_THREADS)
    turns = "each" if connections == threads else "own"
    host = (folder / "0.http").read_bytes().partition(b"Host: ")[2].partition(b"\r\n")[0].decode()
    load = [f"-t{threads}", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT_S}s"]
    command = [*prefix, "wrk", *load, "-s", str(SCRIPT), f"http://{host}/", "--", str(folder), turns]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if "MEASURED " not in finished.stdout:
        raise RuntimeError(f"wrk: {(finished.stderr or finished.stdout).strip()[-300:]}")
    return parse(finished.stdout)


def parse(output: str) -> Measured:
    """Parse the last line that check.lua printed."""
    found = json.loads(output.rpartition("MEASURED ")[2].splitlines()[0])
    answered = found["requests"] - found["refused"]
    return Measured(
        requests=found["requests"],
        requests_per_s=answered / (found["duration_us"] / 1e6),
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
        errors=found["refused"] + found["broken"],
        wrong=found["wrong"],
        example=found["example"],
    )
