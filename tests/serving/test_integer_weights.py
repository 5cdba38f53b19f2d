"""MatMuls of integers with a scale: the answers are those of the numbers that the integers stand for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export_kit import run_here
from service.contract.bundle import open_bundle
from service.engine.engine import EngineConfig, load_engine

READS, MAKES, BLOCK = 64, 32, 32
SMALLEST = {"INT8": -127, "UINT8": 0, "INT4": -8, "UINT4": 0}
WIDTHS = {"INT8": 255, "UINT8": 256, "INT4": 16, "UINT4": 16}
SCALES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "one": ((), {}),
    "channel": ((MAKES,), {"axis": 1}),
    "block": ((READS // BLOCK, MAKES), {"axis": 0, "block_size": BLOCK}),
}


def write(path: Path, kind: str, scales: str) -> np.ndarray:
    """x → MatMul by integers → y; returns the numbers that the integers stand for."""
    random = np.random.default_rng(0)
    integers = random.integers(0, WIDTHS[kind], (READS, MAKES)) + SMALLEST[kind]
    shape, attributes = SCALES[scales]
    scale, zero = random.uniform(0.01, 0.04, shape).astype(np.float32), np.full(shape, 3)
    dtype = getattr(TensorProto, kind)
    weights = [
        helper.make_tensor("q", dtype, integers.shape, integers.ravel().tolist()),
        numpy_helper.from_array(scale, "d"),
        helper.make_tensor("z", dtype, shape, zero.ravel().tolist()),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "d", "z"], ["w"], name="weights", **attributes),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", READS])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", MAKES])
    graph = helper.make_graph(nodes, "net", [given], [made], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    wide = np.repeat(scale, BLOCK, axis=0) if scales == "block" else scale
    return (integers - 3) * wide.astype(np.float64)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("kind", WIDTHS)
def test_they_are_bundled_verified_and_served_right(tmp_path: Path, kind: str, scales: str) -> None:
    """ONNX Runtime makes MatMulNBits of them, and rounds the rows to 8 bits too unless it is told not to."""
    weights = write(tmp_path / "in.onnx", kind, scales)
    bundled = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "m")
    assert bundled.returncode == 0, bundled.stderr
    verified = run_here("verify", tmp_path / "m")
    assert verified.returncode == 0, verified.stderr
    bundle = open_bundle(Path(json.loads(bundled.stdout)["bundle"]))
    engine = load_engine(bundle, EngineConfig(device="cpu", buckets=(1, 4)))
    rows = np.random.default_rng(1).normal(size=(4, READS)).astype(np.float32)
    answers, expected = engine.run_all(0, {"x": rows})["y"], rows @ weights
    # A sum of products in float32, whatever its order: (n + 1) · 2⁻²⁴ · Σ |x · w|, and w is rounded once.
    bound = (READS + 2) * 2.0**-24 * (np.abs(rows) @ np.abs(weights))
    assert (np.abs(answers - expected) <= bound).all()
    engine.release()
