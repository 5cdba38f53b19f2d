"""Does memory return when a model is loaded again and again?  About a minute.

In: nothing; a bundle with 60 MB of weights is made.  Out: a line with the resident memory before and after.

    python -m benchmarks.reloads            # 100 reloads
    python -m benchmarks.reloads --times 20 --weights-mb 10

The memory before is that after three reloads: arenas and caches grow once.  The exit code is 1 if the memory
after the last reload is more than 5 % over it.
"""

import contextlib
import http.client
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.attacks.processes import resident_mb
from benchmarks.attacks.server import Server
from benchmarks.common import cpu_model, new_parser
from export.__main__ import main as export

WARM_RELOADS = 3
GROWTH = 0.05
SETTLE_S = 1.0  # memory is given back in a thread
NAME = "reloaded"


def write_graph(path: Path, weights_mb: float) -> None:
    """An ONNX file with two layers, of so many MB of float32 weights."""
    width, inner = 64, round(weights_mb * 1e6 / 4 / 128)
    chance = np.random.default_rng(0)
    weights = [
        chance.normal(size=shape, scale=shape[0] ** -0.5) for shape in ((width, inner), (inner, width))
    ]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["kept"]),
            helper.make_node("MatMul", ["kept", "second"], ["y"]),
        ],
        "reloaded",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", width])],
        [
            numpy_helper.from_array(array.astype(np.float32), name)
            for array, name in zip(weights, ("first", "second"), strict=True)
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def reload(port: int) -> None:
    """Load the model again; it is proved again, and the former version is let go."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    client.request("POST", f"/v2/repository/models/{NAME}/load")
    answer = client.getresponse()
    content = answer.read()
    client.close()
    if answer.status != 200:
        raise SystemExit(f"the model was not loaded: {answer.status} {content[:300]!r}")


def settled_mb(pid: int) -> float:
    """Resident MiB once freed memory has been given back."""
    time.sleep(SETTLE_S)
    return statistics.median([resident_mb(pid) for _ in range(3)])


def main() -> int:
    """Measure; the exit code."""
    parser = new_parser(sys.modules[__name__])
    parser.add_argument("--times", type=int, default=100, help="how many reloads")
    parser.add_argument("--weights-mb", type=float, default=60.0, help="size of the model's weights")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="foldserve-reloads-") as folder:
        path, models = Path(folder, "reloaded.onnx"), Path(folder, "models")
        write_graph(path, arguments.weights_mb)
        with contextlib.redirect_stdout(sys.stderr):
            if export(["bundle", str(path), "--to", str(models / NAME)]):
                return 2
        load = os.getloadavg()[0]
        with Server(models, Path(folder, "cache"), "--model-control", model=NAME) as server:
            for _ in range(WARM_RELOADS):
                reload(server.port)
            before_mb = settled_mb(server.pid)
            begun = time.monotonic()
            for _ in range(arguments.times):
                reload(server.port)
            seconds = time.monotonic() - begun
            after_mb = settled_mb(server.pid)
    growth = after_mb / before_mb - 1
    print(
        f"{arguments.times} reloads of {arguments.weights_mb:g} MB in {seconds:.0f} s: resident "
        f"{before_mb:.0f} → {after_mb:.0f} MiB ({growth:+.1%}); {cpu_model()}, load {load:.1f}"
    )
    return int(growth > GROWTH)


if __name__ == "__main__":
    raise SystemExit(main())
