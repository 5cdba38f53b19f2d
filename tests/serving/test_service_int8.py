"""A bundle with an int8 graph: which of its graphs answers, and what is said of that."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldserve.client import Client
from int8_kit import answers_of, quantized, write_int8_bundle
from service.contract.bundle import open_bundle
from service.engine.engine import Engine, EngineConfig
from service.engine.precision import load_fastest
from service.engine.session import EngineError
from service_kit import metric, one_sentence, serving, start
from tiny_nets import digits_net, write_bundle

ROWS = digits_net().rows(16, seed=7)["input"]


def loaded(folder: Path, setting: str = "auto", **graphs: bytes) -> Engine:
    bundle = open_bundle(write_int8_bundle(folder / "net" / "1", **graphs))
    return load_fastest(bundle, EngineConfig(device="cpu", threads=1, buckets=(1, 4, 16), int8=setting))


@pytest.mark.parametrize(
    ("many", "one", "name", "reason"),
    [
        (2.0, 2.0, "int8", None),
        (1.06, 0.96, "int8", None),
        (1.04, 2.0, "float32", "int8 is 1.04 × as fast as float32 here in batches of 8, expected over 1.05"),
        (2.0, 0.9, "float32", "int8 is 0.90 × as fast as float32 here in batches of 1, expected over 0.95"),
    ],
)
def test_int8_serves_where_it_is_faster(tmp_path, monkeypatch, many, one, name, reason):
    turns = itertools.cycle([True, False])  # int8 is measured first, then float32
    rate = {16: many, 1: one}  # the smallest bucket that holds 8 is 16
    monkeypatch.setattr(Engine, "rows_per_s", lambda _, bucket, rows: rate[bucket] if next(turns) else 1.0)
    precision = loaded(tmp_path).precision
    assert (precision.name, precision.reason) == (name, reason)


def test_the_measurement_is_of_both_graphs(tmp_path):
    """Whatever is faster here: the decision is one of the two, with a number where it is float32."""
    precision = loaded(tmp_path).precision
    assert precision.name == "int8" or " × as fast as float32 here" in str(precision.reason)


def wrong(graph: bytes) -> bytes:
    """One weight of the quantized net changed by 60 of its 255 steps."""
    model = onnx.load_from_string(graph)
    weight = next(w for w in model.graph.initializer if w.data_type == TensorProto.INT8 and len(w.dims) == 2)
    numbers = numpy_helper.to_array(weight).copy()
    numbers[400, 0] += 60 if numbers[400, 0] < 0 else -60
    weight.CopyFrom(numpy_helper.from_array(numbers, weight.name))
    return bytes(model.SerializeToString())


def by_pairs(limit: float) -> bytes:
    """The digit net in int8 as x86 without VNNI adds it: products in pairs, each pair within ±limit.

    Integers up to 2²⁴ are exact in float32, and so are the sums of 392 pairs in float64.
    """
    net = digits_net()
    w1, b1, w2 = (net.weights[name] for name in ("w1", "b1", "w2"))
    step_x, zero, step_w = 8.0 / 255, 128, np.abs(w1).max(axis=0) / 127
    levels = np.rint(w1.astype(np.float64) / step_w)
    arrays = {
        "step": np.float32(step_x),
        "zero": np.uint8(zero),
        "pairs": np.array([-1, 392, 2, 1]),
        "w": levels.reshape(392, 2, -1),
        "two": np.array([2]),
        "one": np.array([1]),
        "low": np.float64(-limit),
        "high": np.float64(limit),
        "offset": zero * levels.sum(axis=0),
        "scale": step_x * step_w.astype(np.float64),
        "b1": b1.astype(np.float64),
        "w2": w2.astype(np.float64),
    }
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], axis=1),
        helper.make_node("QuantizeLinear", ["flat", "step", "zero"], ["q"]),
        helper.make_node("Cast", ["q"], ["x"], to=TensorProto.DOUBLE),
        helper.make_node("Reshape", ["x", "pairs"], ["x2"]),
        helper.make_node("Mul", ["x2", "w"], ["products"]),
        helper.make_node("ReduceSum", ["products", "two"], ["sums"], keepdims=0),
        helper.make_node("Clip", ["sums", "low", "high"], ["held"]),
        helper.make_node("ReduceSum", ["held", "one"], ["total"], keepdims=0),
        helper.make_node("Sub", ["total", "offset"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["h"]),
        helper.make_node("Add", ["h", "b1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "w2"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["logits"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "pairs",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 10])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def test_a_cpu_that_saturates_is_found_by_the_replay(tmp_path):
    """The golden answers are of exact sums; the graph adds as such a CPU does: in 16 bits."""
    exact, saturating = by_pairs(2**31), by_pairs(2**15 - 1)
    served = loaded(tmp_path / "exact", "require", int8=exact, golden_by=exact)
    assert served.precision.name == "int8", "the same graph without saturation replays"
    engine = loaded(tmp_path / "saturating", int8=saturating, golden_by=exact)
    assert engine.precision.name == "float32"
    assert "do not replay here: output 'logits' differs from its golden answers" in str(
        engine.precision.reason
    )


def test_a_graph_that_does_not_load_is_named(tmp_path):
    assert "ONNX Runtime cannot load int8.onnx" in str(loaded(tmp_path, int8=b"no graph").precision.reason)


def test_required_int8_that_cannot_serve_is_not_ready(tmp_path):
    right = quantized(digits_net(), digits_net().rows(40))
    with pytest.raises(EngineError, match=r"int8 is required .* do not replay here: output 'logits' differs"):
        loaded(tmp_path, "require", int8=wrong(right), golden_by=right)
    bundle = open_bundle(write_bundle(tmp_path / "plain", digits_net()))
    with pytest.raises(EngineError, match="the bundle has no int8 graph"):
        load_fastest(bundle, EngineConfig(device="cpu", int8="require"))


def test_a_changed_weight_leaves_float32_in_service(tmp_path):
    right = quantized(digits_net(), digits_net().rows(40))
    write_int8_bundle(tmp_path / "digits" / "1", int8=wrong(right), golden_by=right)
    with serving(tmp_path) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/v2/health/ready").status_code == 200
        said = client.get("/v2/models/digits").json()["properties"]
        assert said["precision"] == "float32"
        assert "do not replay here" in said["precision_reason"]
        line = next(line for line in server.lines if "event=precision" in line)
        assert "serves=float32" in line
        assert "do not replay here" in line
        assert metric(client, 'foldserve_precision{model="digits",precision="float32",version="1"}') == 1


@pytest.mark.parametrize(
    ("setting", "name", "threads", "lanes"),
    [
        ("require", "int8", 2, 2),
        ("require", "int8", 2, 1),
        ("require", "int8", 1, 1),
        ("off", "float32", 2, 2),
    ],
)
def test_answers_say_their_precision_and_are_the_same_bits_in_every_batch(
    tmp_path, setting, name, threads, lanes
):
    """Rows in requests of 1 to 16 from many clients at once fall into every bucket and both lanes."""
    bundle = open_bundle(write_int8_bundle(tmp_path / "digits" / "1"))
    assert bundle.int8 is not None
    expected = answers_of(bundle.int8.graph, {"input": ROWS})["logits"]
    flags = ["--int8", setting, "--threads", str(threads), "--lanes", str(lanes)]
    with serving(tmp_path, *flags) as server, httpx.Client(base_url=server.url) as client:
        picture = Path(__file__).parents[2] / "docs/seven.png"
        answer = client.post("/predict", content=picture.read_bytes())
        assert answer.headers["x-model-precision"] == name
        body = {"inputs": [{"name": "input", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": [0] * 784}]}
        answer = client.post("/v2/models/digits/infer", content=json.dumps(body))
        assert answer.headers["x-model-precision"] == name
        assert client.get("/v2/models/digits").json()["properties"]["precision"] == name
        served = client.get("/models").json()["models"][0]["served"]
        assert served["proof"]["precision"]["name"] == name
        assert served["proof"]["int8"]["agreement"] == {"rows": 40, "same": 40}
        assert metric(client, f'foldserve_precision{{model="digits",precision="{name}",version="1"}}') == 1

        def ask(seed: int) -> dict[int, bytes]:
            chosen = np.random.default_rng(seed).permutation(16)[: 1 + seed % 16]
            with Client(server.url) as one:
                answer = one.infer("digits", {"input": ROWS[chosen]})
            assert answer.precision == name
            logits = answer.outputs["logits"]
            return {int(row): logits[place].tobytes() for place, row in enumerate(chosen)}

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(64)))
    bits = [{found[row] for found in answers if row in found} for row in range(16)]
    assert name == "float32" or bits == [{row.tobytes()} for row in expected]


def test_a_wrong_value_is_one_sentence(tmp_path):
    one_sentence(start("--models", str(tmp_path), "--int8", "always"), "--int8")
