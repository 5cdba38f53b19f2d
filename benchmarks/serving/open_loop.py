"""The open loop as a process: the `Outcome` of a constant rate of requests, every answer checked.

In: a folder of requests (plan.py), a rate, seconds, connections.  Out: a line of JSON.

Answers are kept and checked at the end, so that checking delays no request.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.serving.driver import Driver, Trace, poisson
from benchmarks.serving.plan import read_plan
from benchmarks.serving.systems import ROOT
from benchmarks.serving.wire import Request


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The fate of the requests; latencies in ms, counted from due unless stated otherwise."""

    requests: int
    right: int
    wrong: int
    statuses: dict[str, int]  # "0": no answer
    answered_per_s: float  # right answers, from the first due to the last of them
    p50_ms: float  # of right answers
    p99_ms: float
    sent_p99_ms: float  # from sent
    waited: int  # requests that found no free connection when due
    late_p99_ms: float  # from due to sent, of those that found a connection: the driver's own delay
    in_time: int  # right answers within the deadline, from sent
    refused: int  # 503
    refused_p99_ms: float  # of 503, from sent
    example: str


def outcome(trace: Trace, requests: list[Request], deadline_s: float = float("inf")) -> Outcome:
    """Summarise a trace; an answer is in time if it arrived within `deadline_s` of being sent."""
    ok = trace.status == 200
    holds = [ok[k] and requests[k % len(requests)].expected.holds(body) for k, body in enumerate(trace.body)]
    right = np.array(holds, bool)
    latency, after_sent = trace.done - trace.due, trace.done - trace.sent
    examples = [f"{trace.status[k]} {trace.body[k][:150]!r}" for k in np.flatnonzero(~right)[:1]]
    span = trace.done[right].max() - trace.due[0] if right.any() else 1.0
    return Outcome(
        requests=len(ok),
        right=int(right.sum()),
        wrong=int((ok & ~right).sum()),
        statuses={str(status): count for status, count in sorted(Counter(trace.status.tolist()).items())},
        answered_per_s=float(right.sum() / span),
        p50_ms=_percentile(latency[right], 50),
        p99_ms=_percentile(latency[right], 99),
        sent_p99_ms=_percentile(after_sent[right], 99),
        waited=int(trace.waited.sum()),
        late_p99_ms=_percentile((trace.sent - trace.due)[~trace.waited], 99),
        in_time=int((right & (after_sent <= deadline_s)).sum()),
        refused=int((trace.status == 503).sum()),
        refused_p99_ms=_percentile(after_sent[trace.status == 503], 99),
        example="".join(examples),
    )


def drive(
    folder: Path,
    *,
    rate: float,
    seconds: float,
    connections: int,
    prefix: list[str],
    deadline_s: float = float("inf"),
    seed: int = 0,
) -> Outcome:
    """Run this module as a separate process; `prefix` is the command before it, such as taskset's."""
    flags = {
        "rate": rate,
        "seconds": seconds,
        "connections": connections,
        "deadline": deadline_s,
        "seed": seed,
    }
    command = [*prefix, sys.executable, "-m", __name__, str(folder)]
    command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"open loop: {finished.stderr.strip()[-300:]}")
    return Outcome(**json.loads(finished.stdout))


def _percentile(seconds: np.ndarray, percent: float) -> float:
    return 1e3 * float(np.percentile(seconds, percent)) if len(seconds) else 0.0


def main() -> None:
    """Drive the requests; print the outcome as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--deadline", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    host, requests = read_plan(options.folder)
    name, _, port = host.partition(":")
    due = poisson(options.rate, options.seconds, options.seed)
    driver = Driver([request.raw(host) for request in requests], due)
    gc.collect()
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        trace = runner.run(driver.run(name, int(port), options.connections))
    print(json.dumps(asdict(outcome(trace, requests, options.deadline))))


if __name__ == "__main__":
    main()
