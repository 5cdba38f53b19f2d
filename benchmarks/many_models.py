"""Many models in one process: all of them in memory, or fifty at a time.  Two minutes or more.

In: a bundle.  Out: a Markdown table: seconds until ready, memory, threads, a cold model's first answer.

    python -m benchmarks.many_models models/digits/1      # 1,000 names, 50 in memory; and 300, all in memory
    python -m benchmarks.many_models models/digits/1 --names 100 --in-memory 10 --all 100

The bundle is linked under many names. Each is asked once, cold; then all are asked at random over 16
connections. Every answer is compared with the golden one. `late` is how much longer a cold model's first
answer took than the server says that loading it took.
"""

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import cpu_model, new_parser
from service.contract.bundle import Bundle, open_bundle

CONNECTIONS = 16
_READY_WITHIN_S = 600


class Many:
    """A server over `count` links to one bundle; `flags` say how many may be in memory."""

    def __init__(self, folder: Path, bundle: Bundle, count: int, *flags: str) -> None:
        self.names = [f"m{number:05d}" for number in range(count)]
        for name in self.names:
            place = folder / "models" / name / "1"
            place.mkdir(parents=True)
            for file in bundle.path.iterdir():
                os.link(file, place / file.name)
        self._log = (folder / "log").open("w+")
        begun = time.perf_counter()
        command = [sys.executable, "-m", "service", "--models", str(folder / "models"), "--port", "0"]
        self._process = subprocess.Popen(
            [*command, "--cache", str(folder / "cache"), *flags], stderr=self._log
        )
        self.port = int(self._wait_for(r"event=listening url=http://127.0.0.1:(\d+)"))
        self._wait_for(r"(Ready): ")
        self.ready_s = time.perf_counter() - begun
        golden = bundle.golden
        self._input, self._rows = next(iter(golden.inputs.items()))
        self._truth = next(iter(golden.outputs.values()))
        self._tolerance = next(iter(bundle.manifest.tolerances.values())).max_abs
        self.num_right = self.num_wrong = 0
        self._lock = threading.Lock()

    def _wait_for(self, pattern: str) -> str:
        deadline = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if found := re.search(pattern, self.log()):
                return found[1]
            time.sleep(0.05)
        raise SystemExit(f"the server did not say {pattern}:\n{self.log()[-2000:]}")

    def log(self) -> str:
        """What the server wrote to stderr so far."""
        return Path(self._log.name).read_text(encoding="utf-8")

    def ask(self, client: http.client.HTTPConnection, name: str, row: int) -> float:
        """Seconds until the answer to golden row `row`, which is compared."""
        rows = self._rows[row : row + 1]
        tensor = {
            "name": self._input,
            "shape": list(rows.shape),
            "datatype": "FP32",
            "data": rows.ravel().tolist(),
        }
        begun = time.perf_counter()
        client.request("POST", f"/v2/models/{name}/infer", json.dumps({"inputs": [tensor]}))
        answer = client.getresponse()
        content = answer.read()
        took = time.perf_counter() - begun
        is_right = answer.status == 200 and bool(
            np.abs(np.array(json.loads(content)["outputs"][0]["data"]) - self._truth[row].ravel()).max()
            <= self._tolerance
        )
        with self._lock:
            self.num_right += is_right
            self.num_wrong += not is_right
        return took

    def ask_each(self) -> list[float]:
        """Seconds of one answer of each model, one after another."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        return [self.ask(client, name, at % len(self._rows)) for at, name in enumerate(self.names)]

    def ask_at_random(self, seconds: float) -> None:
        """Ask all models over several connections; a tenth of them gets nine tenths of the requests."""
        end = time.perf_counter() + seconds

        def work(number: int) -> None:
            chance = np.random.default_rng(number)
            client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            while time.perf_counter() < end:
                among = max(1, len(self.names) // 10) if chance.random() < 0.9 else len(self.names)
                self.ask(client, self.names[chance.integers(among)], int(chance.integers(len(self._rows))))

        workers = [threading.Thread(target=work, args=(number,)) for number in range(CONNECTIONS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def facts(self) -> dict[str, Any]:
        """Memory and threads of the process, and its page of metrics."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8").splitlines()
        status = dict(line.split(":", 1) for line in lines)
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        begun = time.perf_counter()
        client.request("GET", "/metrics")
        page = client.getresponse().read()
        return {
            "peak resident MB": int(status["VmHWM"].split()[0]) // 1024,
            "threads": int(status["Threads"]),
            "/metrics kB": len(page) // 1024,
            "/metrics ms": round((time.perf_counter() - begun) * 1e3),
        }

    def close(self) -> None:
        """End the server."""
        self._process.terminate()
        self._process.wait(60)
        self._log.close()


def measured(bundle: Bundle, count: int, seconds: float, *flags: str) -> dict[str, Any]:
    """One server's row of the table."""
    with tempfile.TemporaryDirectory(dir=bundle.path.parent) as folder:  # links need the same file system
        many = Many(Path(folder), bundle, count, *flags)
        try:
            first = many.ask_each()
            loads = dict(re.findall(r"event=proved model=(\S+) .*? seconds=(\S+)", many.log()))
            many.ask_at_random(seconds)
            row: dict[str, Any] = {"models": count, "ready s": round(many.ready_s, 1), **many.facts()}
        finally:
            many.close()
        late = [took - float(loads[name]) for took, name in zip(first, many.names, strict=True)][1:]
        if flags:
            row |= {
                "cold ms p50": round(float(np.median(first)) * 1e3),
                "late ms p50": round(float(np.median(late)) * 1e3, 1),
                "late ms p99": round(float(np.percentile(late, 99)) * 1e3, 1),
            }
        row |= {"right": many.num_right, "wrong or refused": many.num_wrong}
    return row


def main() -> None:
    """Measure both servers and print the table."""
    parser = new_parser(sys.modules[__name__])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--names", type=int, default=1000, help="models of which some are in memory")
    parser.add_argument("--in-memory", type=int, default=50)
    parser.add_argument("--all", type=int, default=300, help="models that are all in memory; 0 for none")
    parser.add_argument("--seconds", type=float, default=20, help="how long all are asked at random")
    given = parser.parse_args()
    bundle = open_bundle(given.bundle)
    rows = [measured(bundle, given.names, given.seconds, "--max-models", str(given.in_memory))]
    if given.all:
        rows.append(measured(bundle, given.all, given.seconds))
    print(f"{cpu_model()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}\n")
    heads = list(rows[0])
    titles = [f"{rows[0]['models']} models, {given.in_memory} in memory"] + [
        f"{row['models']} models, all in memory" for row in rows[1:]
    ]
    print(f"| | {' | '.join(titles)} |\n|---|{'---|' * len(rows)}")
    for head in heads[1:]:
        print(f"| {head} | {' | '.join(str(row.get(head, '')) for row in rows)} |")


if __name__ == "__main__":
    main()
