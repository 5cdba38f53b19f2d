"""A bundle with an int8 graph, made without export: `digits_net` quantized by ONNX Runtime's own tool.

write_int8_bundle(models / "digits" / "1")        change= edits the manifest, int8= replaces int8.onnx
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from service.contract.bundle import int8_golden_bytes
from service.contract.int8 import INT8_GOLDEN_FILE, INT8_GRAPH_FILE, Int8Speed
from service.contract.manifest import Manifest
from service.contract.parity import Run
from service.contract.tolerances import int8_tolerance
from tiny_nets import TinyNet, digits_net, write_bundle

Arrays = dict[str, np.ndarray]


class _Once(CalibrationDataReader):
    def __init__(self, rows: Arrays) -> None:
        self._rows: Arrays | None = rows

    def get_next(self) -> Arrays | None:
        rows, self._rows = self._rows, None
        return rows


def quantized(net: TinyNet, rows: Arrays) -> bytes:
    """The net's graph in int8, with ranges from `rows`; the last MatMul stays float."""
    last = net.nodes[-1]
    last.name = last.name or "last"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            onnx.load_from_string(net.graph()),
            path,
            _Once(rows),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[last.name],
        )
        return path.read_bytes()


def answers_of(graph: bytes, rows: Arrays) -> Arrays:
    """What ONNX Runtime answers, all rows together."""
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, rows), strict=True))


def write_int8_bundle(
    folder: Path,
    net: TinyNet | None = None,
    *,
    int8: bytes | None = None,
    golden_by: bytes | None = None,
    golden_run: Run | None = None,
    change: Callable[[dict[str, Any]], None] = lambda manifest: None,
) -> Path:
    """Write a bundle of version 4; `int8` replaces int8.onnx, its golden answers stay the right ones.

    Those are of the quantized net, or of the graph `golden_by`, or of a function of rows.
    """
    net = digits_net() if net is None else net
    write_bundle(folder, net)
    with np.load(folder / "golden.npz") as golden:
        rows = {name.removeprefix("input."): golden[name] for name in golden.files if name[:6] == "input."}
    right = quantized(net, rows)
    answers = dict(golden_run(rows)) if golden_run else answers_of(golden_by or right, rows)
    content = {INT8_GRAPH_FILE: int8 or right, INT8_GOLDEN_FILE: int8_golden_bytes(answers)}
    for name, file in content.items():
        (folder / name).write_bytes(file)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] |= {name: hashlib.sha256(file).hexdigest() for name, file in content.items()}
    manifest |= {"schema_version": 4, "digest": "0" * 64, "int8": int8_block(answers)}
    change(manifest)
    (folder / "manifest.json").write_bytes(Manifest.model_validate_json(json.dumps(manifest)).sealed())
    return folder


def int8_block(answers: Arrays) -> dict[str, Any]:
    """The manifest's block for these golden int8 answers, with numbers that fit each other."""
    measured = {
        name: {
            "fused_difference": 1e-4,
            "step": 1e-3,
            "output_range": float(np.abs(array).max()),
        }
        for name, array in answers.items()
    }
    return {
        "tolerances": {
            name: {"max_abs": int8_tolerance(**numbers), **numbers} for name, numbers in measured.items()
        },
        "sqnr_db": dict.fromkeys(answers, 30.0),
        "sqnr_rows": 40,
        "agreement": {"rows": 40, "same": 40},
        "accuracy": {"rows": 100, "both": 90, "only_float32": 2, "only_int8": 1},
        "ranges": {
            "source": "rows",
            "method": "minmax",
            "is_bias_corrected": False,
            "rows": 40,
            "sqnr_db_of": {"minmax": 30.0},
        },
        "speed": [{"batch": 1, "float32_ms": 0.3, "int8_ms": 0.1}],
        "cpu": "a CPU with VNNI",
        "layers": [
            {
                "name": "Gemm",
                "op_type": "Gemm",
                "status": "int8",
                "sqnr_db": 35.0,
                "low": 0.0,
                "high": 4.0,
                "range_source": "rows",
            },
            {"name": "last", "op_type": "MatMul", "status": "float", "reason": "makes the answers"},
        ],
    }


def faster(*_: object) -> list[Int8Speed]:
    """A machine on which int8 is twice as fast, for tests that do not measure."""
    return [Int8Speed(batch=batch, float32_ms=2.0, int8_ms=1.0) for batch in (1, 8)]


def slower(*_: object) -> list[Int8Speed]:
    """A machine on which it is half as fast."""
    return [Int8Speed(batch=batch, float32_ms=1.0, int8_ms=2.0) for batch in (1, 8)]


def made_slow(int8: bytes, products: int = 40) -> bytes:
    """The graph of a `digits_net` with matrix products on its way whose result is zero: the same answers."""
    model = onnx.load_from_string(int8)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.zeros((784, 784), np.float32), "slow.w"))
    (last,) = [node for node in graph.node if "logits" in node.output]
    last.output[0] = "slow.logits"
    name = "slow.0"
    graph.node.append(helper.make_node("Flatten", ["input"], [name], axis=1))
    for step in range(1, products + 1):
        graph.node.append(helper.make_node("MatMul", [name, "slow.w"], [f"slow.{step}"]))
        name = f"slow.{step}"
    graph.initializer.append(numpy_helper.from_array(np.zeros((784, 10), np.float32), "slow.end"))
    graph.node.append(helper.make_node("MatMul", [name, "slow.end"], ["slow.zero"]))
    graph.node.append(helper.make_node("Add", ["slow.logits", "slow.zero"], ["logits"]))
    return model.SerializeToString()


def large_net() -> TinyNet:
    """A net whose weights are larger than a core's caches in float32: int8 reads a quarter of them."""
    net = digits_net(hidden=3000)
    net.tolerance *= 100  # sums of so many products
    return net
