"""How far is each stage of the road from the trained net?  One table, over every held-out digit.

In: a run (`--run`) and the models folder that its checkpoint was exported to.  Out: a table on stdout.

    python -m benchmarks.parity --run runs/digits --models models --model digits

The truth is the unfolded net in torch, float64. It is compared with the same net in float32, the bundle in
ONNX Runtime, and the running service over HTTP: one row per request, and 64 clients with 1…64 rows at once.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from service.contract.bundle import open_bundle
from service.contract.versions import find_versions
from training.data import load_split, normalize
from training.runs.checkpoint import load_checkpoint

PORT = 8903


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m` with these arguments; ended with SIGINT after the block."""
    running = subprocess.Popen([sys.executable, "-m", *arguments], stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGINT)
        running.wait()


def wait_for(url: str, running: subprocess.Popen[bytes]) -> None:
    """Wait until `url` answers 200; SystemExit if the process ends first."""
    while running.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"the server for {url} exited; is its port taken?")


def infer(model: str, rows: np.ndarray) -> np.ndarray:
    """Logits (N, K) from the running service, as binary tensors."""
    given = {"name": "input", "datatype": "FP32", "shape": rows.shape}
    head = json.dumps(
        {
            "inputs": [{**given, "parameters": {"binary_data_size": rows.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v2/models/{model}/infer",
        head + rows.tobytes(),
        {"Inference-Header-Content-Length": str(len(head))},
    )
    with urllib.request.urlopen(request) as answer:
        content, length = answer.read(), int(answer.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(content[:length])["outputs"]
    return np.frombuffer(content[length:], "<f4").reshape(output["shape"])


def answers_of(run: Path, models: Path, model: str) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """The truth (N, K), every stage's answers (N, K), and the bundle's tolerance."""
    checkpoint = load_checkpoint(run / "checkpoint.pt")
    split = load_split(checkpoint.data.name)
    assert isinstance(split.held_out_pixels, torch.Tensor), "a data set whose pixels fit into memory"
    rows = normalize(split.held_out_pixels, checkpoint.data)
    net = checkpoint.build_net()
    folder = models / model
    bundle = open_bundle(folder / find_versions(folder)[0])
    session = ort.InferenceSession(bundle.graph, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        stages = {"the net in torch, float32": net(rows).numpy()}
        truth = net.double()(rows.double()).numpy()
    array = rows.numpy()
    stages["the bundle in ONNX Runtime"] = session.run(None, {"input": array})[0]
    sizes = np.random.default_rng(0).integers(1, 65, size=len(array))
    cuts = np.cumsum(sizes)
    parts = np.split(array, cuts[cuts < len(array)])
    with (
        process("service", "--models", str(models), "--port", str(PORT)) as running,
        ThreadPoolExecutor(64) as clients,
    ):
        wait_for(f"http://127.0.0.1:{PORT}/v2/health/ready", running)
        single = [infer(model, row[None]) for row in array]
        stages["the service, one row per request"] = np.concatenate(single)
        mixed = list(clients.map(lambda part: infer(model, part), parts))
        stages["the service, 64 clients with 1 to 64 rows"] = np.concatenate(mixed)
    return truth, stages, bundle.manifest.tolerances["logits"].max_abs


def main() -> None:
    """Compare all stages; print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, default=Path("runs/digits"), help="folder of the training run")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles")
    parser.add_argument("--model", default="digits", help="name of the model, digits by default")
    options = parser.parse_args()
    truth, stages, tolerance = answers_of(options.run, options.models, options.model)
    print(f"{len(truth)} held-out rows, tolerance {tolerance:.3g}\n")
    print("| stage | largest difference from the unfolded net in float64 | same label |")
    print("|---|---:|---:|")
    for stage, answers in stages.items():
        worst = np.abs(answers - truth).max()
        same = (answers.argmax(1) == truth.argmax(1)).sum()
        print(f"| {stage} | {worst:.3g} | {same} of {len(truth)} |")
        assert worst <= tolerance, f"{stage} exceeds the tolerance"


if __name__ == "__main__":
    main()
