"""ONNX Runtime alone: how many rows/s can these cores compute?  No HTTP; one batch, repeatedly.

In: a bundle, seconds for each configuration.  Out: a line of JSON for each: threads, callers, rows per batch,
rows/s.

    threads   of one `run` (intra-op)
    callers   number of concurrent sessions, each with that many threads
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime as ort

from service.contract.bundle import Bundle, open_bundle

BATCHES = (1, 2, 4, 8, 16, 32, 64)


def configurations(num_cores: int) -> Iterator[tuple[int, int]]:
    """Yield (threads, callers): one thread; all cores for one `run`; one `run` per core."""
    yield 1, 1
    if num_cores > 1:
        yield num_cores, 1
        yield 1, num_cores


def rows_per_second(bundle: Bundle, threads: int, callers: int, num_rows: int, seconds: float) -> float:
    """The throughput of one configuration, measured for `seconds`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    feeds = {
        name: np.resize(array, (num_rows, *array.shape[1:])) for name, array in bundle.golden.inputs.items()
    }

    together = threading.Barrier(callers)

    def call(_: int) -> float:
        session = ort.InferenceSession(bundle.graph, options, providers=["CPUExecutionProvider"])
        session.run(None, feeds)
        together.wait()
        count, begun = 0, time.perf_counter()
        while (passed := time.perf_counter() - begun) < seconds:
            session.run(None, feeds)
            count += num_rows
        return count / passed

    with ThreadPoolExecutor(callers) as pool:
        return sum(pool.map(call, range(callers)))


def main() -> None:
    """Measure every configuration; print each as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    for threads, callers in configurations(len(os.sched_getaffinity(0))):
        for num_rows in BATCHES:
            rate = rows_per_second(bundle, threads, callers, num_rows, options.seconds)
            result = {"threads": threads, "callers": callers, "batch": num_rows, "rows_per_s": round(rate, 1)}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
