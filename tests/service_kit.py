"""Tiny bundles with known answers, and a real server process to ask.

In: nothing that needs torch or the export package.  Out: `models/NAME/VERSION/` folders, and a `Server`.
"""

import contextlib
import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.bundle import Golden, golden_bytes

ROOT = Path(__file__).parents[1]
Arrays = dict[str, np.ndarray]

_ONNX = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}

_NUMPY = {
    "BOOL": "?",
    "UINT8": "u1",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}


@dataclass(kw_only=True)
class TinyNet:
    """A graph, the same function in float64, and what its manifest says."""

    nodes: list[onnx.NodeProto]
    weights: Arrays
    inputs: dict[str, tuple[str, list[int]]]
    outputs: dict[str, tuple[str, list[int]]]
    truth: Callable[[Arrays], Arrays]
    labels: list[str] | None = None
    preprocessing: dict[str, Any] | None = None
    tolerance: float = 1e-4
    golden: Arrays = field(default_factory=dict)

    def graph(self) -> bytes:
        """The ONNX file."""
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info(n, _ONNX[d], ["rows", *s]) for n, (d, s) in self.inputs.items()],
            [helper.make_tensor_value_info(n, _ONNX[d], ["rows", *s]) for n, (d, s) in self.outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model)
        return model.SerializeToString()

    def rows(self, num_rows: int, seed: int = 0) -> Arrays:
        """Random rows for every input."""
        chance = np.random.default_rng(seed)
        rows: Arrays = {}
        for name, (dtype, shape) in self.inputs.items():
            if dtype.startswith("float"):
                rows[name] = chance.normal(size=(num_rows, *shape)).astype(dtype)
            elif dtype == "bool":
                rows[name] = chance.integers(0, 2, (num_rows, *shape)).astype(dtype)
            else:
                rows[name] = chance.integers(0, 100, (num_rows, *shape)).astype(dtype)
        return rows


def digits_net(seed: int = 0, hidden: int = 16) -> TinyNet:
    """1×28×28 pictures to 10 logits: two matrices and a ReLU."""
    chance = np.random.default_rng(seed)
    weights = {
        "w1": chance.normal(size=(784, hidden), scale=0.05).astype(np.float32),
        "b1": chance.normal(size=hidden).astype(np.float32),
        "w2": chance.normal(size=(hidden, 10)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w1", "b1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "w2"], ["logits"]),
    ]

    def truth(rows: Arrays) -> Arrays:
        w1, b1, w2 = (weights[name].astype(np.float64) for name in ("w1", "b1", "w2"))
        flat = rows["input"].astype(np.float64).reshape(-1, 784)
        return {"logits": np.maximum(flat @ w1 + b1, 0) @ w2}

    return TinyNet(
        nodes=nodes,
        weights=weights,
        inputs={"input": ("float32", [1, 28, 28])},
        outputs={"logits": ("float32", [10])},
        truth=truth,
        labels=[str(digit) for digit in range(10)],
        preprocessing={"mode": "L", "height": 28, "width": 28, "mean": [0.5], "std": [0.25]},
    )


def echo_net(dtype: str, shape: list[int] | None = None) -> TinyNet:
    """What comes in goes out, in any datatype."""
    shape = [3] if shape is None else shape
    return TinyNet(
        nodes=[helper.make_node("Identity", ["x"], ["y"])],
        weights={},
        inputs={"x": (dtype, shape)},
        outputs={"y": (dtype, shape)},
        truth=lambda rows: {"y": rows["x"].astype(np.float64)},
        tolerance=0.0,
    )


def pair_net() -> TinyNet:
    """Two inputs of different types, two outputs: a · b and a + b."""
    return TinyNet(
        nodes=[
            helper.make_node("Cast", ["b"], ["bf"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["a", "bf"], ["product"]),
            helper.make_node("Add", ["a", "bf"], ["sum"]),
        ],
        weights={},
        inputs={"a": ("float32", [2, 2]), "b": ("int64", [2, 2])},
        outputs={"product": ("float32", [2, 2]), "sum": ("float32", [2, 2])},
        truth=lambda rows: {
            "product": rows["a"].astype(np.float64) * rows["b"],
            "sum": rows["a"].astype(np.float64) + rows["b"],
        },
    )


def log_net() -> TinyNet:
    """y = log(x): answers that are not finite when asked for them."""
    net = TinyNet(
        nodes=[helper.make_node("Log", ["x"], ["y"])],
        weights={},
        inputs={"x": ("float32", [2])},
        outputs={"y": ("float32", [2])},
        truth=lambda rows: {"y": np.log(rows["x"].astype(np.float64))},
    )
    net.golden = {"x": np.linspace(0.5, 3.0, 64, dtype=np.float32).reshape(32, 2)}
    return net


def busy_net(golden_steps: int = 1) -> TinyNet:
    """y = x, after as many matrix products as the largest number in the batch: a test decides how long."""
    width = 256
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["state", "w"], ["next"]),
        ],
        "step",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [width, width]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [width, width]),
        ],
    )
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0].astype(np.float32)
    net = TinyNet(
        nodes=[
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["steps"], to=TensorProto.INT64),
            helper.make_node("Loop", ["steps", "", "w"], ["end"], body=body),
            helper.make_node("ReduceSum", ["end"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
            helper.make_node("Add", ["x", "nothing"], ["y"]),
        ],
        weights={"w": rotation, "zero": np.array(0, np.float32)},
        inputs={"x": ("float32", [1])},
        outputs={"y": ("float32", [1])},
        truth=lambda rows: {"y": rows["x"].astype(np.float64)},
    )
    net.golden = {"x": np.full((32, 1), golden_steps, np.float32)}
    return net


def write_bundle(
    folder: Path,
    net: TinyNet,
    *,
    graph: bytes | None = None,
    change: Callable[[dict[str, Any]], None] = lambda manifest: None,
) -> Path:
    """Write a bundle; `graph` replaces the net's own, `change` edits the manifest before it is written."""
    folder.mkdir(parents=True)
    inputs = net.golden or net.rows(40)
    golden = golden_bytes(Golden(inputs=inputs, outputs=net.truth(inputs)))
    content = {"model.onnx": graph or net.graph(), "golden.npz": golden}
    tolerance = {
        "max_abs": net.tolerance,
        "unfolded_error": net.tolerance / 4,
        "folded_error": 0.0,
        "output_range": 0.0,
    }
    manifest: dict[str, Any] = {
        "schema_version": 1,
        "name": "tiny",
        "files": {name: hashlib.sha256(file).hexdigest() for name, file in content.items()},
        "inputs": [_spec(name, *told) for name, told in net.inputs.items()],
        "outputs": [_spec(name, *told) for name, told in net.outputs.items()],
        "labels": net.labels,
        "preprocessing": net.preprocessing,
        "tolerances": dict.fromkeys(net.outputs, tolerance),
        "fold": {"found": 0, "folded": 0, "declined": 0, "sites": []},
        "provenance": {
            "created": "2026-01-01T00:00:00Z",
            "command": "service_kit",
            "source": "tiny",
            "source_sha256": None,
            "truth": "numpy, float64",
            "seed": 0,
            "versions": {},
            "training": {},
        },
    }
    change(manifest)
    for name, file in content.items():
        (folder / name).write_bytes(file)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return folder


def nudged(net: TinyNet, weight: str = "w2", factor: float = 1.01) -> bytes:
    """The net's graph with one weight changed by 1 %."""
    largest = np.unravel_index(np.abs(net.weights[weight]).argmax(), net.weights[weight].shape)
    kept = net.weights[weight].copy()
    net.weights[weight] = kept.copy()
    net.weights[weight][largest] *= factor
    graph = net.graph()
    net.weights[weight] = kept
    return graph


def _spec(name: str, dtype: str, shape: list[int]) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": dtype,
        "shape": [None, *shape],
        "minimum": None,
        "maximum": None,
        "layout": None,
    }


class Server:
    """`python -m service` in a process of its own, on a port of the system's choice."""

    def __init__(self, models: Path, *flags: str, environment: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "--models", str(models), "--port", "0", *flags],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self.wait_for("event=listening url=").split("url=")[1].split()[0]
        self.port = int(self.url.rsplit(":", 1)[1])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            self._queue.put(line)
        self._queue.put(None)

    def wait_for(self, *texts: str, timeout_s: float = 60) -> str:
        """The next line on stderr that holds one of `texts`."""
        while (line := self._queue.get(timeout=timeout_s)) is not None:
            if any(text in line for text in texts):
                return line
        raise AssertionError(f"the server ended without {texts}:\n{''.join(self.lines)}")

    def wait_until_loaded(self) -> "Server":
        """Wait until every model has been tried."""
        self.wait_for("Ready:", "Not ready:")
        return self

    def terminate(self, sig: int = signal.SIGTERM) -> None:
        self.process.send_signal(sig)

    def wait(self, timeout_s: float = 60) -> int:
        """The exit code."""
        code = self.process.wait(timeout_s)
        self._reader.join(10)
        return code

    def close(self) -> None:
        """End the process, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextlib.contextmanager
def serving(models: Path, *flags: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """A server that has tried every model."""
    server = Server(models, *flags, environment=environment)
    try:
        yield server.wait_until_loaded()
    finally:
        server.close()


def every_net(root: Path) -> Path:
    """A models folder with one model of each kind."""
    for name, net in {
        "digits": digits_net(),
        "pair": pair_net(),
        "log": log_net(),
        "a model": echo_net("float32"),
        **{f"echo-{dtype}": echo_net(dtype) for dtype in _ONNX},
    }.items():
        write_bundle(root / name / "1", net)
    return root


def x_request(data: Any, datatype: str = "FP32", shape: Any = None, **members: Any) -> dict[str, Any]:
    """A request for one input `x`, three numbers a row unless told otherwise."""
    shape = [1, 3] if shape is None else shape
    return {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}], **members}


def binary_body(document: dict[str, Any], *tails: bytes) -> tuple[bytes, dict[str, str]]:
    """A body and the header that goes with it."""
    head = json.dumps(document).encode()
    return head + b"".join(tails), {"Inference-Header-Content-Length": str(len(head))}


def read_answer(headers: Any, body: bytes) -> tuple[dict[str, Any], Arrays]:
    """The JSON of an answer and its outputs, binary or not."""
    length = headers.get("inference-header-content-length")
    document = json.loads(body if length is None else body[: int(length)])
    rest = b"" if length is None else body[int(length) :]
    arrays: Arrays = {}
    for output in document["outputs"]:
        dtype = _NUMPY[output["datatype"]]
        if "data" in output:
            arrays[output["name"]] = np.array(output["data"], dtype).reshape(output["shape"])
        else:
            size = output["parameters"]["binary_data_size"]
            arrays[output["name"]] = np.frombuffer(rest[:size], dtype).reshape(output["shape"])
            rest = rest[size:]
    assert rest == b""
    return document, arrays
