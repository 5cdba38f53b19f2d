"""What serving costs in int8: the service's rows/s over those of ONNX Runtime alone, on one core.

In: a bundle with an int8 graph.  Out: a table on stdout.

    python -m export bundle benchmarks.serving.resnets:resnet18 --input-shape 3,224,224 \
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --to /tmp/models/resnet18 --dtype int8
    python -m benchmarks.served_int8 /tmp/models/resnet18/1

The service has one thread, one lane and one core, which it shares with its event loop; clients run on the
others.  ONNX Runtime alone has the same core, one thread, and batches of the size that the service ran.  All
take turns, and medians count.  Seconds of the processor are counted beside those of the clock: on a machine
that others use too, the clock says what they left.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import httpx
import onnxruntime as ort

from benchmarks.common import new_parser
from benchmarks.peers.net import free_port
from benchmarks.serving.systems import ROOT
from foldserve.client import Client
from service.contract.bundle import open_bundle

ROUNDS, SECONDS, CONNECTIONS = 7, 3.0, 16
CORE = 0
BUCKETS = (1, 2, 4, 8)
SERVED = "served int8"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Rows a second of the clock, and of one core's processor time."""

    clock: float
    processor: float


class Service:
    """A served bundle in a process on CORE."""

    def __init__(self, bundle: Path, models: Path) -> None:
        self.name = bundle.parent.name
        (models / self.name).symlink_to(bundle.parent.resolve(), target_is_directory=True)
        self.url = f"http://127.0.0.1:{free_port()}"
        flags = ["--models", str(models), "--port", self.url.rpartition(":")[2], "--int8", "require"]
        flags += ["--threads", "1", "--lanes", "1", "--buckets", ",".join(map(str, BUCKETS))]
        command = [
            "taskset",
            "-c",
            str(CORE),
            sys.executable,
            "-m",
            "service",
            *flags,
            "--request-log",
            "off",
        ]
        self._process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        client = httpx.Client(base_url=self.url)
        while True:
            try:
                if client.get("/v2/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if self._process.poll() is not None:
                raise SystemExit("the service ended")
            time.sleep(0.5)
        self._client = client

    def processor_s(self) -> float:
        """Seconds of the processor so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def counted(self, name: str) -> float:
        """A counter of /metrics."""
        lines = self._client.get("/metrics").text.splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"foldserve_{name}_total")
        )

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()


def measured(work: Callable[[float], int], processor_s: Callable[[], float]) -> Rate:
    """The rates of `work`, which runs until a moment and returns its rows."""
    begun, before = time.perf_counter(), processor_s()
    rows = work(begun + SECONDS)
    return Rate(clock=rows / (time.perf_counter() - begun), processor=rows / (processor_s() - before))


def main() -> None:
    """Measure in turn; print the table."""
    options = argument_parser().parse_args()
    bundle = open_bundle(options.bundle)
    assert bundle.int8 is not None
    rows = next(iter(bundle.golden.inputs.values()))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(CONNECTIONS) as pool:
        service = Service(options.bundle, Path(folder))
        clients = [Client(service.url, timeout_s=120.0) for _ in range(CONNECTIONS)]

        def ask(end: float) -> int:
            def repeat(client: Client) -> int:
                count = 0
                while time.perf_counter() < end:
                    answer = client.infer(service.name, rows[count % len(rows)][None])
                    assert answer.precision == "int8"
                    count += 1
                return count

            return sum(pool.map(repeat, clients))

        ask(time.perf_counter() + SECONDS)  # the forecast learns what batches take
        before = service.counted("rows"), service.counted("executions")
        ask(time.perf_counter() + SECONDS)
        mean = (service.counted("rows") - before[0]) / (service.counted("executions") - before[1])
        batch = min(BUCKETS, key=lambda size: abs(size - mean))
        name = bundle.manifest.inputs[0].name
        runs = {}
        graphs = [("int8", size, bundle.int8.graph) for size in BUCKETS]
        for graph, size, content in (*graphs, ("float32", batch, bundle.graph)):
            settings = ort.SessionOptions()
            settings.intra_op_num_threads = 1
            session = ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
            runs[bare(graph, size)] = alone(session, {name: rows[:size]}, size)
        rates: dict[str, list[Rate]] = {name: [] for name in (SERVED, *runs)}
        for _ in range(ROUNDS):
            rates[SERVED].append(measured(ask, service.processor_s))
            for name, run in runs.items():
                rates[name].append(on_core(run))
        service.close()
    table(rates, mean, batch)


def alone(session: ort.InferenceSession, feed: dict[str, object], batch: int) -> Callable[[float], int]:
    """A function that runs batches until a moment, and returns its rows."""

    def run(end: float) -> int:
        count = 0
        while time.perf_counter() < end:
            session.run(None, feed)
            count += batch
        return count

    return run


def on_core(run: Callable[[float], int]) -> Rate:
    """The rates of a function that this process runs on the service's core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CORE})
    try:
        return measured(run, time.thread_time)
    finally:
        os.sched_setaffinity(0, cores)


def bare(graph: str, batch: int) -> str:
    """The name of a line of the table."""
    return f"bare {graph}, batches of {batch}"


def table(rates: dict[str, list[Rate]], mean: float, batch: int) -> None:
    """Medians, and for each other line the median of its ratios in each round."""
    print(f"Mean batch of the service {mean:.2f}; {ROUNDS} rounds; load average {os.getloadavg()[0]:.1f}.\n")
    print("| on one core | rows/s of the clock | rows/s of processor time | served ÷ it, processor time |")
    print("| --- | ---: | ---: | ---: |")
    for name, found in rates.items():
        clock = statistics.median(rate.clock for rate in found)
        processor = statistics.median(rate.processor for rate in found)
        pairs = zip(rates[SERVED], found, strict=True)
        ratio = statistics.median(ours.processor / other.processor for ours, other in pairs)
        mark = " (as served)" if name == bare("int8", batch) else ""
        print(f"| {name}{mark} | {clock:.1f} | {processor:.1f} | {ratio:.2f} |")


def argument_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    import benchmarks.served_int8 as package

    parser = new_parser(package)
    parser.add_argument("bundle", type=Path, help="models/NAME/VERSION with an int8 graph")
    return parser


if __name__ == "__main__":
    main()
