"""Tiny nets with known answers, and their bundles.

In: nothing that needs torch or the export package.  Out: `models/NAME/VERSION/` folders.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.contract.bundle import Golden, golden_bytes
from service.contract.manifest import Manifest

Arrays = dict[str, np.ndarray]


ONNX_TYPES = {
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


def _infos(tensors: dict[str, tuple[str, list[int]]]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(name, ONNX_TYPES[dtype], ["rows", *shape])
        for name, (dtype, shape) in tensors.items()
    ]


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
            [
                helper.make_tensor_value_info(n, ONNX_TYPES[d], ["rows", *s])
                for n, (d, s) in self.inputs.items()
            ],
            [
                helper.make_tensor_value_info(n, ONNX_TYPES[d], ["rows", *s])
                for n, (d, s) in self.outputs.items()
            ],
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
    width = 128
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


def write_unproved(folder: Path, net: TinyNet, reason: str) -> Path:
    """Write a bundle that states why nothing of it is proved, and has no golden rows."""

    def change(manifest: dict[str, Any]) -> None:
        del manifest["files"]["golden.npz"]
        manifest |= {"schema_version": 4, "digest": "0" * 64, "tolerances": {}, "unproved": reason}

    write_bundle(folder, net, change=change)
    (folder / "golden.npz").unlink()
    document = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_bytes(Manifest.model_validate(document).sealed())
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
