"""`foldserve bench`: how fast a bundle answers on this machine, by the size of a batch, without a server.

In: a bundle.  Out: for each batch size the median milliseconds, and rows a second of one lane.

exit code   0 done   2 a mistake, or a bundle that is not proved here
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldserve.commands.parser import Parser, add_bundle, add_device, refuse

SECONDS = 0.3  # for each batch size


def parser(prog: str) -> Parser:
    """The flags."""
    flags = Parser(
        prog,
        "Measure how fast a bundle answers on this machine, without a server.",
        "foldserve bench models/digits",
        "foldserve bench models/digits/2 --threads 1 --json",
    )
    add_bundle(flags)
    add_device(flags)
    flags.add_argument("--json", action="store_true", help="a JSON object, instead of a table")
    return flags


def main(words: Sequence[str], prog: str) -> int:
    """Run the command; returns the exit code."""
    options = parser(prog).parse_args(words)
    if options.threads is not None and options.threads < 1:
        return refuse(f"--threads must be at least 1, got {options.threads}")
    from service.contract.manifest import BundleError
    from service.contract.versions import newest
    from service.engine.session import EngineError

    try:
        facts = measure(newest(options.bundle), options)
    except (BundleError, EngineError) as error:
        return refuse(f"{options.bundle}: {error}")
    if options.json:
        print(json.dumps(facts))
        return 0
    print(f"{facts['bundle']} on {facts['provider']}: {facts['lanes']} lanes of {facts['threads']} threads")
    why = facts["precision_reason"]
    print(f"in {facts['precision']}" + (f": {why}" if why else ""))
    print(f"{'rows':>6}{'ms':>10}{'rows/s':>12}")
    for one in facts["batches"]:
        at = "".join(f"  {name}={size}" for name, size in one.get("sizes", {}).items())
        print(f"{one['rows']:>6}{one['ms']:>10.3f}{one['rows_per_second']:>12.0f}{at}")
    return 0


def measure(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Load and prove the bundle, then run its golden rows in every bucket of the first lane.

    Where sizes are open, the rows of each golden size.
    """
    from service.cgroup import usable_cores
    from service.contract.bundle import open_bundle
    from service.contract.parity import allowed
    from service.engine.engine import EngineConfig
    from service.engine.precision import load_fastest
    from service.settings import default_cache

    bundle = open_bundle(path)
    threads = options.threads or usable_cores()
    config = EngineConfig(device=options.device, threads=threads, cache=default_cache(), int8=options.int8)
    engine = load_fastest(bundle, config)
    batches = []
    cases = [
        (golden, num_rows)
        for golden in bundle.goldens
        for num_rows in allowed(engine.buckets, engine.sizes.of_rows(golden.inputs).max_rows)
    ]
    for golden, num_rows in cases:
        taken = np.arange(num_rows) % golden.num_rows
        rows = {name: array[taken] for name, array in golden.inputs.items()}
        seconds: list[float] = []
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end or len(seconds) < 3:
            begun = time.perf_counter()
            engine.run(0, [rows])
            seconds.append(time.perf_counter() - begun)
        median = statistics.median(seconds)
        sizes = {"sizes": dict(golden.sizes)} if golden.sizes else {}
        batches.append({**sizes, "rows": num_rows, "ms": median * 1e3, "rows_per_second": num_rows / median})
    plan = engine.plan
    about = {
        "bundle": str(path),
        "provider": engine.provider,
        "precision": engine.precision.name,
        "precision_reason": engine.precision.reason,
        "lanes": plan.lanes,
        "threads": plan.threads,
    }
    return {**about, "batches": batches}
