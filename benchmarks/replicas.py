"""What two and four replicas answer, beside one, each with the same quota of processor time.

    python -m benchmarks.replicas --bundle models/resnet20/1 --quota 0.35

Replicas run in control groups (`cpu.max` or `cpu.cfs_quota_us`), behind deploy/haproxy/haproxy.cfg;
wrk keeps 16 connections for each.  All sizes take turns, in one run; the medians of the rounds are compared.
Needs root, HAProxy and wrk, and cores that are free: a quota beyond what is there would measure the machine.

    efficiency of N = answers a second of N ÷ (N × answers a second of one)
"""

import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.attacks.server import Server
from benchmarks.common import cpu_model, new_parser
from service.contract.bundle import open_bundle

CONFIG = Path(__file__).parents[1] / "deploy" / "haproxy" / "haproxy.cfg"
GROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 100_000  # Kubernetes' own
SIZES = (1, 2, 4)
CONNECTIONS = 16


@contextlib.contextmanager
def limited(pid: int, quota: float, index: int) -> Iterator[None]:
    """Give a process so many cores, by a control group of version 2 or 1."""
    root = GROUPS if (GROUPS / "cgroup.controllers").exists() else GROUPS / "cpu"
    group = root / f"foldserve-replica-{index}"
    group.mkdir()
    try:
        quota_us = round(quota * PERIOD_US)
        if root == GROUPS:
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for member in (group / "cgroup.procs").read_text().split():
            (root / "cgroup.procs").write_text(member)
        group.rmdir()


@contextlib.contextmanager
def balancer(folder: Path, ports: list[int], port: int) -> Iterator[None]:
    """HAProxy in front of these replicas, once it answers."""
    servers = "\n".join(f"    server replica{number} 127.0.0.1:{number}" for number in ports)
    text = CONFIG.read_text(encoding="utf-8").replace("bind :8080", f"bind 127.0.0.1:{port}")
    text = re.sub(r"^ *server-template .*$", servers, text, flags=re.MULTILINE)
    (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin") or "haproxy"
    process = subprocess.Popen([program, "-db", "-f", str(folder / "haproxy.cfg")], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready")
                break
            time.sleep(0.1)
        time.sleep(2)  # until it has seen every replica twice
        yield
    finally:
        process.kill()
        process.wait()


def write_request(folder: Path, name: str, bundle: Path) -> None:
    """A golden row as a binary request, and the script by which wrk sends it."""
    golden = open_bundle(bundle).golden
    assert golden is not None
    inputs, body = [], b""
    for tensor, array in golden.inputs.items():
        row = array[-1:].tobytes()
        described = {"name": tensor, "shape": list(array[-1:].shape), "datatype": "FP32"}
        inputs.append({**described, "parameters": {"binary_data_size": len(row)}})
        body += row
    document = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    (folder / "body").write_bytes(document + body)
    (folder / "post.lua").write_text(
        f'local file = io.open("{folder / "body"}", "rb"); wrk.body = file:read("*a"); file:close()\n'
        f'wrk.method = "POST"; wrk.path = "/v2/models/{name}/infer"\n'
        f'wrk.headers["Inference-Header-Content-Length"] = "{len(document)}"\n',
        encoding="utf-8",
    )


def answers_per_s(folder: Path, port: int, size: int, seconds: int) -> float:
    """What wrk counts; raises SystemExit if any answer was no 200."""
    load = [
        "-t1",
        f"-c{CONNECTIONS * size}",
        f"-d{seconds}s",
        "--timeout=30s",
        "-s",
        str(folder / "post.lua"),
    ]
    output = subprocess.run(
        ["wrk", *load, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True
    ).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise SystemExit(f"wrk: {output}")
    return float(output.split("Requests/sec:")[1].split()[0])


def main() -> int:
    """Print one line of JSON."""
    parser = new_parser(sys.modules[__name__])
    parser.add_argument("--bundle", type=Path, required=True, help="a version of a model of float32 inputs")
    parser.add_argument("--quota", type=float, default=0.35, help="cores for each replica (default 0.35)")
    parser.add_argument("--rounds", type=int, default=3, help="(default 3)")
    parser.add_argument("--seconds", type=int, default=6, help="of each measurement (default 6)")
    options = parser.parse_args()
    models, name = options.bundle.parent.parent, options.bundle.parent.name
    measured: dict[int, list[float]] = {size: [] for size in SIZES}
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        folder = Path(place)
        write_request(folder, name, options.bundle)
        replicas = []
        for index in range(max(SIZES)):
            server = Server(models, folder / "cache", "--threads", "1", model=name)
            replicas.append(stack.enter_context(server))
            stack.enter_context(limited(server.pid, options.quota, index))
        port = replicas[0].port + 1
        for _ in range(options.rounds):
            for size in SIZES:
                with balancer(folder, [replica.port for replica in replicas[:size]], port):
                    answers_per_s(folder, port, size, 1)
                    measured[size].append(answers_per_s(folder, port, size, options.seconds))
    medians = {size: statistics.median(each) for size, each in measured.items()}
    facts = {
        "cpu": cpu_model(),
        "quota": options.quota,
        "answers/s": {size: round(median, 1) for size, median in medians.items()},
        "efficiency": {size: round(median / size / medians[1], 3) for size, median in medians.items()},
        "load before": load_before,
    }
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
