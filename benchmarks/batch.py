"""How near `foldserve batch` comes to the runtime alone: rows a second, both in one run, alternating.

    python -m benchmarks.batch --bundle models/digits/1 --rows 100000
    python -m benchmarks.batch --bundle models/resnet/1 --rows 2000 --rounds 5

Both have the same rows.  Alone: one ONNX Runtime session with the threads and lanes of the bundle's plan, the
rows already in memory, 64 at a time, nothing done with the answers.  `foldserve batch`: its job from the
first row to the whole .parquet file, loading and proof apart.  The medians of the rounds are compared.
"""

import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.common import cpu_model, new_parser
from foldserve.batch.job import Job, Options
from service.cgroup import usable_cores
from service.contract.bundle import Bundle, open_bundle
from service.engine.engine import EngineConfig
from service.engine.session import SessionPlan
from service.settings import default_cache

BATCH = 64


def alone(bundle: Bundle, rows: dict[str, np.ndarray], plan: SessionPlan) -> float:
    """Rows a second of one session, called by as many threads as the plan has lanes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = plan.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(bundle.graph, options, providers=["CPUExecutionProvider"])
    num_rows = len(next(iter(rows.values())))
    session.run(None, {name: array[:BATCH] for name, array in rows.items()})

    def call(first: int) -> None:
        session.run(None, {name: array[first : first + BATCH] for name, array in rows.items()})

    begun = time.perf_counter()
    with ThreadPoolExecutor(plan.lanes) as pool:
        list(pool.map(call, range(0, num_rows, BATCH)))
    return num_rows / (time.perf_counter() - begun)


def batched(bundle: Path, source: Path, target: Path, num_rows: int) -> tuple[float, SessionPlan]:
    """Rows a second of the job, and the plan of its session."""
    engine = EngineConfig(threads=usable_cores(), device="cpu", buckets=(BATCH,), cache=default_cache())
    job = Job(bundle, source, target, Options(engine=engine))
    job.load()
    begun = time.perf_counter()
    job.run(lambda done: None)
    seconds = time.perf_counter() - begun
    target.unlink()
    return num_rows / seconds, job.engine.plan


def main() -> int:
    """Print the medians, and their quotient, as JSON."""
    parser = new_parser(sys.modules[__name__])
    parser.add_argument("--bundle", type=Path, required=True, help="a version of a model")
    parser.add_argument("--rows", type=int, default=100_000, help="(default 100000)")
    parser.add_argument("--rounds", type=int, default=5, help="(default 5)")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    golden = bundle.golden
    taken = np.arange(options.rows) % golden.num_rows
    rows = {name: array[taken] for name, array in golden.inputs.items()}
    measured: dict[str, list[float]] = {"alone": [], "batch": []}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.npz"
        np.savez(source, allow_pickle=False, **rows)
        for _ in range(options.rounds):
            rate, plan = batched(options.bundle, source, Path(folder) / "out.parquet", options.rows)
            measured["batch"].append(rate)
            measured["alone"].append(alone(bundle, rows, plan))
    medians = {name: round(statistics.median(values), 1) for name, values in measured.items()}
    facts = {"cpu": cpu_model(), "cores": usable_cores(), "rows": options.rows, "rounds": options.rounds}
    print(json.dumps({**facts, **medians, "quotient": round(medians["batch"] / medians["alone"], 3)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
