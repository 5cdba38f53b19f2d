"""Ray, with a node killed: replicas behind Serve's proxies, and bulk answers.  Needs ray[serve,data].

In: nothing; a bundle that answers its input is made.  Out: a line of JSON; what happens meanwhile on stderr.

    make test-extras
    .extras/ray/bin/python -m benchmarks.ray_cluster [--rows 600000] [--seconds 20]

A head and three nodes, each in a network namespace of its own where that is allowed (root, iproute2), else
all at one address.  Serve: three replicas become two under load; then a node with a replica is killed, while
some clients ask the head's proxy and others the killed node's own, with and without asking twice.  Bulk: a
node is killed once part of the output is written.  Every answer is compared, every row counted.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.dataset
import pyarrow.parquet

from benchmarks.common import new_parser
from benchmarks.ray_nodes import COUNT, PORT, Nodes

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests/kits"))

from cluster_kit import Answers, load  # noqa: E402
from netns_kit import hosts, why_not  # noqa: E402
from tiny_nets import echo_net, write_bundle  # noqa: E402

NUM_FILES = 20  # of answers, about
CONNECTIONS = 8  # of each group of clients
REPLICA, ANSWERING = "ServeReplica", "MapWorker"  # how Ray's actors for Serve and Data are called
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/kits'}",  # of Ray's workers
}


def say(text: str) -> None:
    """What happens, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def write_rows(folder: Path, num_rows: int, num_files: int = 60) -> np.ndarray:
    """Parquet files of rows that differ, with the row's number as key; the rows."""
    numbers = np.arange(num_rows)
    rows = np.stack([numbers, numbers + 0.5, -numbers], axis=1).astype(np.float32)
    folder.mkdir()
    for part in np.array_split(numbers, num_files):
        keys = part.astype(str)
        column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows[part].ravel()), 3)
        pyarrow.parquet.write_table(
            pyarrow.table({"key": keys, "x": column}), folder / f"{part[0]:07}.parquet"
        )
    return rows


def account(answers: pyarrow.Table, rows: np.ndarray) -> dict[str, int]:
    """How many rows were answered once, more often, and not at all, and how many answers are right."""
    counts = Counter(answers["key"].to_pylist())
    got = np.stack(answers["output.y"].to_numpy(zero_copy_only=False))
    expected = rows[[int(key) for key in answers["key"].to_pylist()]]
    return {
        "once": sum(count == 1 for count in counts.values()),
        "repeated": sum(count > 1 for count in counts.values()),
        "missing": len(rows) - len(counts),
        "right": int((got == expected).all(axis=1).sum()),
    }


def bulk(nodes: Nodes, bundle: Path, folder: Path, num_rows: int) -> dict[str, Any]:
    """What became of the rows: `account`, how many files were written, in all and before, and the seconds."""
    rows = write_rows(folder / "rows", num_rows)
    command = [
        sys.executable,
        "deploy/ray/bulk.py",
        str(bundle),
        str(folder / "rows"),
        str(folder / "answers"),
    ]
    block_mb = num_rows * 50 / 2**20 / NUM_FILES  # a row of answers has some 50 bytes
    command += ["--address", nodes.address, "--outputs", "--actors", str(COUNT), "--block-mb", str(block_mb)]
    begun = time.perf_counter()
    with (folder / "bulk.log").open("w") as log:
        job = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    try:
        # Not before: Ray 2.60 gives up a job that loses a node which reads the heads of the input's files.
        while job.poll() is None and not list((folder / "answers").glob("*.parquet")):
            time.sleep(0.1)
        num_files = len(list((folder / "answers").glob("*.parquet")))
        nodes.kill((nodes.running(ANSWERING) or [COUNT])[-1])
        say(f"bulk: a node was killed after {time.perf_counter() - begun:.0f} s")
        if job.wait(900):
            raise SystemExit((folder / "bulk.log").read_text()[-4000:])
    finally:
        job.kill()
    seconds = round(time.perf_counter() - begun)
    facts = account(pyarrow.dataset.dataset(folder / "answers").to_table(), rows)
    total = len(list((folder / "answers").glob("*.parquet")))
    return {**facts, "files": total, "files when a node was killed": num_files, "seconds": seconds}


def is_answering(address: tuple[str, int]) -> bool:
    """Whether a proxy leads to a ready replica."""
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(f"http://{address[0]}:{address[1]}/v2/health/ready").status == 200
    return False


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    """Wait for a condition; TimeoutError where it never holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.2)


def facts_of(answers: Answers) -> dict[str, Any]:
    """What clients got, in JSON."""
    failures = dict(Counter(answers.failures))
    return {"right": answers.right, "failures": failures, "longest gap, s": round(answers.longest_gap_s, 2)}


class Served:
    """The application on the cluster, with proxies on every node where nodes have addresses of their own."""

    def __init__(self, nodes: Nodes, models: Path, *, is_apart: bool) -> None:
        from ray import serve
        from ray.serve.schema import LoggingConfig

        self._nodes = nodes
        self._args = {"models": str(models), "lanes": 1, "cache": str(models.parent / "cache")}
        self._quiet = LoggingConfig(enable_access_log=False, log_level="ERROR")
        self._is_apart = is_apart
        serve.start(
            proxy_location="EveryNode" if is_apart else "HeadOnly",
            http_options={"host": "0.0.0.0" if is_apart else "127.0.0.1", "port": PORT},
            logging_config=self._quiet,
        )

    def deploy(self, count: int) -> None:
        """So many replicas; returns when they are ready."""
        from ray import serve

        from deploy.ray.serve import build_app

        app = build_app({**self._args, "num_replicas": count})
        serve.run(app, name="foldserve", route_prefix="/", logging_config=self._quiet)

    def _are_replaced(self, victim: int) -> bool:
        """Whether two replicas are ready, and none of them is on this node."""
        from ray import serve

        states = serve.status().applications["foldserve"].deployments["foldserve"].replica_states
        # Serve counts the replica of a lost node as running for a while.
        return states.get("RUNNING") == 2 and len({*self._nodes.running(REPLICA)} - {victim}) == 2

    def redeployed(self, seconds: float) -> dict[str, Any]:
        """What clients got while three replicas became two."""
        with load([self._nodes.proxy(0)], connections=CONNECTIONS) as answers:
            time.sleep(seconds)
            self.deploy(2)
            time.sleep(seconds)
        return facts_of(answers)

    def lost(self, seconds: float, lose: Callable[[int], None]) -> dict[str, Any]:
        """What clients got while a node with a replica was lost, and until another one replaced it.

        `lose`: `Nodes.kill` or `Nodes.cut`.
        """
        victim = self._nodes.running(REPLICA)[0]
        head, own = self._nodes.proxy(0), self._nodes.proxy(victim)
        places = {"the head's proxy": head, **({"its own proxy": own} if self._is_apart else {})}
        for place in places.values():
            wait_until(partial(is_answering, place), f"a proxy at {place[0]}")
        with contextlib.ExitStack() as stack:
            groups = {}
            for name, place in places.items():
                for retries, how in enumerate(("asked once", "asked twice")):
                    known = [place]
                    answers = load(known, connections=CONNECTIONS, retries=retries)
                    groups[f"{name}, {how}"] = stack.enter_context(answers), known
            time.sleep(seconds)
            for _, known in groups.values():
                known.append(head)  # for who has lost a connection; who has one keeps it
            lose(victim)
            begun = time.monotonic()
            self._nodes.wait_for(COUNT)  # with the head, without the killed one
            wait_until(lambda: self._are_replaced(victim), "two replicas again")
            say(f"serve: two replicas again {time.monotonic() - begun:.0f} s after a node was lost")
            time.sleep(seconds)
        self._nodes.restart(victim)
        return {name: facts_of(answers) for name, (answers, _) in groups.items()}

    def close(self) -> None:
        """Take the application off the cluster."""
        from ray import serve

        serve.shutdown()


def measured(
    nodes: Nodes, folder: Path, num_rows: int, seconds: float, *, is_apart: bool, has_cut: bool
) -> dict[str, Any]:
    """All claims, in the order in which a node that was killed has time to come back."""
    bundle = write_bundle(folder / "models" / "echo" / "1", echo_net("float32"))
    nodes.wait_for(COUNT + 1)
    say("every node is there")
    served = Served(nodes, folder / "models", is_apart=is_apart)
    served.deploy(3)
    say("serve: three replicas are ready")
    facts = {"redeployed": served.redeployed(seconds)}
    say(f"serve: redeployed {facts['redeployed']}")
    facts["killed"] = served.lost(seconds, nodes.kill)
    say(f"serve: a node killed {facts['killed']}")
    if has_cut:
        nodes.wait_for(COUNT + 1)
        facts["cut off"] = served.lost(seconds, nodes.cut)
        say(f"serve: a node cut off {facts['cut off']}")
    served.close()
    nodes.wait_for(COUNT + 1)
    facts["bulk"] = bulk(nodes, bundle, folder, num_rows)
    return facts


def main() -> int:
    """Print what became of everything."""
    parser = new_parser(sys.modules[__name__])
    parser.add_argument("--rows", type=int, default=600_000, help="of the bulk job (default 600000)")
    parser.add_argument("--seconds", type=float, default=20, help="of load before and after (default 20)")
    parser.add_argument(
        "--cut", action="store_true", help="then cut a node's cable too, and wait until Ray notices"
    )
    given = parser.parse_args()
    os.environ |= SETTINGS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is ended then too
    import ray

    begun, reason = time.perf_counter(), why_not()
    apart = contextlib.nullcontext([]) if reason else hosts(COUNT + 1)
    say(reason or "each node in a network namespace of its own")
    with tempfile.TemporaryDirectory(prefix="fs") as folder, apart as places:
        nodes = Nodes(places, Path(folder))
        try:
            is_apart, has_cut = bool(places), given.cut and bool(places)
            facts = measured(
                nodes, Path(folder), given.rows, given.seconds, is_apart=is_apart, has_cut=has_cut
            )
        finally:
            nodes.close()
    facts |= {
        "nodes": f"one address: {reason}" if reason else "network namespaces",
        "seconds": round(time.perf_counter() - begun),
        "ray": ray.__version__,
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
