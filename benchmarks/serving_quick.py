"""How thin is the service? Requests/s beside a bare echo on the same uvicorn, in one interleaved run.

In: a models folder (`--models`) and a model's name.  Out: a table of medians and ratios on stdout.

    python -m benchmarks.serving_quick --models models --model digits

Three systems: `echo` (an ASGI app that sends the body back), the service with binary tensors, and with JSON.
wrk drives one at a time, so that they take turns on the same cores; before that, an answer of the service is
compared with ONNX Runtime's. The bare ONNX Runtime loop tells how many rows/s one core can do at all.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime as ort
import orjson

from service.bundle import Bundle, open_bundle
from service.protocol.datatypes import BY_DTYPE
from service.repository import find_versions

ECHO_PORT, OURS_PORT = 8901, 8902


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server, ended with SIGINT."""
    running = subprocess.Popen([sys.executable, "-m", *arguments], stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGINT)
        running.wait()


def wait_for(url: str, running: subprocess.Popen[bytes]) -> None:
    """Until it answers with 200."""
    while running.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"the server for {url} ended by itself; is its port taken?")


def bodies(bundle: Bundle) -> dict[str, tuple[bytes, dict[str, str]]]:
    """One golden row as a binary and as a JSON request, with the headers of each."""
    inputs = {spec.name: bundle.golden.inputs[spec.name][:1] for spec in bundle.manifest.inputs}

    def described(name: str) -> dict[str, object]:
        array = inputs[name]
        return {"name": name, "shape": array.shape, "datatype": BY_DTYPE[str(array.dtype)]}

    sizes = [
        {**described(name), "parameters": {"binary_data_size": array.nbytes}}
        for name, array in inputs.items()
    ]
    head = orjson.dumps({"inputs": sizes, "parameters": {"binary_data_output": True}})
    tensors = [{**described(name), "data": array.ravel().tolist()} for name, array in inputs.items()]
    return {
        "binary": (
            head + b"".join(array.tobytes() for array in inputs.values()),
            {"Inference-Header-Content-Length": str(len(head))},
        ),
        "JSON": (orjson.dumps({"inputs": tensors}), {"Content-Type": "application/json"}),
    }


def check(url: str, bundle: Bundle, body: bytes, headers: dict[str, str]) -> None:
    """The service's answer to the first golden row is the golden one, within the bundle's tolerance."""
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
        content = answer.read()
        length = answer.headers.get("Inference-Header-Content-Length")
    document = orjson.loads(content if length is None else content[: int(length)])
    rest = b"" if length is None else content[int(length) :]
    for spec, output in zip(bundle.manifest.outputs, document["outputs"], strict=True):
        size = output.get("parameters", {}).get("binary_data_size", 0)
        found = np.array(output["data"]) if "data" in output else np.frombuffer(rest[:size], spec.dtype)
        rest = rest[size:]
        worst = np.abs(found - bundle.golden.outputs[spec.name][0].ravel()).max()
        assert worst <= bundle.manifest.tolerances[spec.name].max_abs, f"{spec.name} is wrong by {worst}"


def wrk(url: str, script: Path, connections: int, seconds: float) -> tuple[float, int]:
    """Requests/s, and how many were not answered with 200."""
    told = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script), url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    wrong = sum(int(count) for count in re.findall(r"Non-2xx or 3xx responses: (\d+)", told))
    wrong += sum(int(count) for count in re.findall(r"(?:connect|read|write|timeout) (\d+)", told))
    return float(re.findall(r"Requests/sec:\s+([\d.]+)", told)[0]), wrong


def write_script(folder: Path, name: str, body: bytes, headers: dict[str, str]) -> Path:
    """A Lua script that makes wrk send the body."""
    (folder / f"{name}.body").write_bytes(body)
    lines = [
        f'local file = io.open("{folder / name}.body", "rb")',
        'wrk.method, wrk.body = "POST", file:read("*a")',
        *(f'wrk.headers["{key}"] = "{value}"' for key, value in headers.items()),
    ]
    script = folder / f"{name}.lua"
    script.write_text("\n".join(lines))
    return script


def bare_rows_per_second(bundle: Bundle, num_rows: int, seconds: float) -> float:
    """ONNX Runtime alone, one thread, batches of `num_rows`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(bundle.graph, options, providers=["CPUExecutionProvider"])
    feeds = {
        name: np.resize(array, (num_rows, *array.shape[1:])) for name, array in bundle.golden.inputs.items()
    }
    session.run(None, feeds)
    count, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        session.run(None, feeds)
        count += num_rows
    return count / passed


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_quick", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--model", default="digits")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of one round of one system")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    folder = options.models / options.model
    bundle = open_bundle(folder / find_versions(folder)[0])
    url = f"http://127.0.0.1:{OURS_PORT}/v2/models/{options.model}/infer"
    found: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        process("benchmarks.echo", str(ECHO_PORT)) as echo,
        process("service", "--models", str(options.models), "--port", str(OURS_PORT)) as ours,
    ):
        wait_for(f"http://127.0.0.1:{ECHO_PORT}/", echo)
        wait_for(f"http://127.0.0.1:{OURS_PORT}/v2/health/ready", ours)
        plan = {}
        for name, (body, headers) in bodies(bundle).items():
            check(url, bundle, body, headers)
            script = write_script(Path(scratch), name, body, headers)
            plan[f"echo, {name} body"] = (f"http://127.0.0.1:{ECHO_PORT}/", script)
            plan[f"service, {name}"] = (url, script)
        for _ in range(options.rounds):
            for system, (target, script) in plan.items():
                rate, wrong = wrk(target, script, options.connections, options.seconds)
                assert wrong == 0, f"{system}: {wrong} requests were not answered with 200"
                found.setdefault(system, []).append(rate)
                print(f"{system}: {rate:,.0f}", file=sys.stderr)
    report(options, found, {size: bare_rows_per_second(bundle, size, 1.0) for size in (1, 64)})


def report(options: argparse.Namespace, found: dict[str, list[float]], bare: dict[int, float]) -> None:
    """One table, with its conditions."""
    medians = {system: statistics.median(rates) for system, rates in found.items()}
    print(
        f"{len(os.sched_getaffinity(0))} cores shared with wrk, {options.connections} connections, ", end=""
    )
    print(f"medians of {options.rounds} interleaved rounds of {options.seconds:g} s, every answer 200\n")
    print("| system | requests/s | lowest to highest | of its echo |")
    print("|---|---:|---:|---:|")
    for system, rates in found.items():
        echo = f"echo, {system.removeprefix('service, ')} body"
        ratio = f"{medians[system] / medians[echo]:.2f}" if echo in medians else "1"
        print(f"| {system} | {medians[system]:,.0f} | {min(rates):,.0f} to {max(rates):,.0f} | {ratio} |")
    for size, rate in bare.items():
        print(f"| ONNX Runtime alone, 1 thread, batches of {size} (rows/s) | {rate:,.0f} | | |")


if __name__ == "__main__":
    main()
