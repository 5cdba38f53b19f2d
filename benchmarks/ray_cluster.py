"""Ray, with a node killed: bulk answers, and replicas behind Serve's proxy.  Needs ray[serve,data].

In: nothing; a bundle that answers its input is made.  Out: lines for benchmarks/results/ray.md.

    python -m benchmarks.ray_cluster [--rows 600000] [--seconds 20]

A head and three nodes are processes of their own on this machine, each node with one core for work.  Bulk: a
node is killed once part of the output is written; each row must be there once, with the right answer.  Serve:
three replicas under load, a node killed, then a redeployment with two; every answer is compared.
"""

import contextlib
import http.client
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.dataset
import pyarrow.parquet

from benchmarks.common import new_parser

ROOT = Path(__file__).parents[1]
CONNECTIONS = 8
PORT = 8765
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests/kits'}"


def kill(cluster: Any, node: Any) -> None:
    """Kill a node with everything on it at once, as a machine that loses its power."""
    (raylet,) = (started.process.pid for started in node.all_processes["raylet"])
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if f"\nPPid:\t{raylet}\n" in status.read_text():
                os.kill(int(status.parent.name), signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


def write_echo(folder: Path) -> Path:
    """A bundle that answers its input, three numbers a row."""
    sys.path.append(str(ROOT / "tests/kits"))
    from tiny_nets import echo_net, write_bundle

    return write_bundle(folder / "models" / "echo" / "1", echo_net("float32"))


def bulk(cluster: Any, nodes: list[Any], bundle: Path, folder: Path, num_rows: int) -> str:
    """What became of the rows."""
    keys = np.arange(num_rows)
    rows = np.stack([keys, keys + 0.5, -keys], axis=1).astype(np.float32)
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), 3)
    table = pyarrow.table({"key": pyarrow.array(keys.astype(str)), "x": column})
    (folder / "rows").mkdir()
    for part in range(60):
        piece = table.slice(part * num_rows // 60, num_rows // 60 + 1)
        pyarrow.parquet.write_table(
            piece.slice(0, (part + 1) * num_rows // 60 - part * num_rows // 60),
            folder / "rows" / f"{part:02}.parquet",
        )
    command = [
        sys.executable,
        "deploy/ray/bulk.py",
        str(bundle),
        str(folder / "rows"),
        str(folder / "answers"),
    ]
    begun = time.perf_counter()
    job = subprocess.Popen(
        [*command, "--address", cluster.address, "--outputs", "--actors", "3"],
        cwd=ROOT,
        stdout=(folder / "bulk.log").open("w"),
        stderr=subprocess.STDOUT,
    )
    while job.poll() is None and len(list((folder / "answers").glob("*.parquet"))) < 1:
        time.sleep(0.2)
    was_running = job.poll() is None
    kill(cluster, nodes.pop())
    code = job.wait(900)
    if code:
        raise SystemExit((folder / "bulk.log").read_text()[-4000:])
    found = pyarrow.dataset.dataset(folder / "answers").to_table()
    counts = Counter(found["key"].to_pylist())
    got = np.stack(found["output.y"].to_numpy(zero_copy_only=False))
    num_right = int((got == rows[np.array(found["key"].to_pylist()).astype(int)]).all(axis=1).sum())
    return (
        f"bulk: {num_rows} rows in {time.perf_counter() - begun:.0f} s, a node killed "
        f"{'while it ran' if was_running else 'TOO LATE'}: {sum(n == 1 for n in counts.values())} once, "
        f"{sum(n > 1 for n in counts.values())} twice, {num_rows - len(counts)} missing, {num_right} right"
    )


def ask(port: int, begin: int, seconds: float, retries: int, outcome: Any) -> None:
    """One client that keeps its connection: (seconds since the epoch, what it got) for each request."""
    got: list[tuple[float, str]] = []
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    end, value = time.time() + seconds, begin
    while time.time() < end:
        value += CONNECTIONS
        row = [float(value % 2**20), 0.5, 1.0]
        body = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": row}]})
        for attempt in range(retries + 1):
            try:
                client.request("POST", "/v2/models/echo/infer", body)
                answer = client.getresponse()
                content = answer.read()
                kind = str(answer.status)
                if answer.status == 200:
                    kind = "right" if json.loads(content)["outputs"][0]["data"] == row else "wrong"
            except (OSError, http.client.HTTPException) as error:
                kind = type(error).__name__
                client.close()
            if kind in ("right", "wrong"):
                break
            if attempt < retries:
                time.sleep(0.1)
        got.append((time.time(), kind))
    outcome.put(got)


def load(port: int, seconds: float, retries: int, meanwhile: Any) -> Counter[str]:
    """What clients in processes of their own got while `meanwhile` ran, after a fifth of the time."""
    context = multiprocessing.get_context("spawn")
    outcome = context.Queue()
    clients = [
        context.Process(target=ask, args=(port, index, seconds, retries, outcome))
        for index in range(CONNECTIONS)
    ]
    for client in clients:
        client.start()
    timer = threading.Timer(seconds / 5, meanwhile)
    timer.start()
    counts = Counter(kind for _ in clients for _, kind in outcome.get())
    timer.join()
    for client in clients:
        client.join()
    return counts


def served(cluster: Any, nodes: list[Any], models: Path, seconds: float) -> list[str]:
    """What clients got: undisturbed, a node killed, with and without a retry, redeployed."""
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from deploy.ray.serve import build_app

    quiet = LoggingConfig(enable_access_log=False, log_level="ERROR")
    serve.start(
        proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": PORT}, logging_config=quiet
    )

    def deploy(count: int) -> None:
        args = {
            "models": str(models),
            "num_replicas": count,
            "lanes": 1,
            "cache": str(models.parent / "cache"),
        }
        serve.run(build_app(args), name="foldserve", route_prefix="/", logging_config=quiet)

    said = []
    begun = time.perf_counter()
    deploy(3)
    said.append(f"serve: 3 replicas ready after {time.perf_counter() - begun:.0f} s")
    for what, retries, meanwhile in (
        ("undisturbed", 0, lambda: None),
        ("a node killed", 0, lambda: kill(cluster, nodes.pop())),
        ("a node killed, clients ask once more", 1, lambda: kill(cluster, nodes.pop())),
        ("redeployed with 2 replicas", 0, lambda: deploy(2)),
    ):
        while len(nodes) < 3:
            nodes.append(cluster.add_node(num_cpus=1, object_store_memory=100_000_000))
            time.sleep(15)  # until its replica is ready
        said.append(f"serve, {what}: {dict(load(PORT, seconds, retries, meanwhile))}")
        print(said[-1], flush=True)
    serve.shutdown()
    return said


def main() -> None:
    """Run both and print what became of them."""
    parser = new_parser(sys.modules[__name__])
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    cluster.add_node(num_cpus=0, object_store_memory=200_000_000)
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=150_000_000) for _ in range(3)]
    ray.init(cluster.address, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        bundle = write_echo(place)
        print(bulk(cluster, nodes, bundle, place, given.rows), flush=True)
        nodes.append(cluster.add_node(num_cpus=1, object_store_memory=150_000_000))
        served(cluster, nodes, place / "models", given.seconds)
    print(f"ray {ray.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
