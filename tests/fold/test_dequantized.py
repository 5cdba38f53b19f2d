"""A BatchNorm after weights that are integers with a scale: it goes into that, or stays with a reason."""

import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export_kit import run_here
from file_kit import folded, model, node, norm, norm_arrays, weights

IMAGE = {"x": ["N", 3, 8, 8]}
ROW = {"x": ["N", 6]}


def integers(*shape: int, dtype: type = np.int8, low: int = -127) -> np.ndarray:
    return np.random.default_rng(1).integers(low, 127, shape).astype(dtype)


def net(op: str, integer: np.ndarray, scale: Any, zero: Any = None, *, gamma: Any = None, **options: Any):
    """DequantizeLinear → `op` [+ bias] → BatchNormalization → y; `axis` is of the scale."""
    axis, bias, opset = options.pop("axis", None), options.pop("bias", None), options.pop("opset", 17)
    channels = options.pop("channels", 4)
    arrays = {"q": integer, "d": np.asarray(scale, dtype=np.float32), **norm_arrays(channels)}
    if gamma is not None:
        arrays["bn.gamma"] = np.asarray(gamma, dtype=np.float32)
    inputs = "q d"
    if zero is not None:
        arrays["z"], inputs = np.asarray(zero, dtype=integer.dtype), "q d z"
    nodes = [node("DequantizeLinear", inputs, "w", **({} if axis is None else {"axis": axis}))]
    operands = "x w"
    if bias == "float":
        arrays["b"], operands = weights(channels), "x w b"
    if bias == "int32":
        arrays |= {"b": np.array([9, -5, 3, 100], np.int32), "e": np.float32(0.01)}
        nodes.append(node("DequantizeLinear", "b e", "c"))
        operands = "x w c"
    shape = ROW if op in ("Gemm", "MatMul") else IMAGE
    return model([*nodes, node(op, operands, "h", **options), norm("h", "y")], arrays, shape, opset=opset)


EACH = np.linspace(0.01, 0.04, 4)
FOLDS = {
    "one scale": net("Conv", integers(4, 3, 3, 3), 0.02),
    "a scale for each output": net("Conv", integers(4, 3, 3, 3), EACH, axis=0),
    "uint8 with zero points": net(
        "Conv", integers(4, 3, 3, 3, dtype=np.uint8, low=1), EACH, [128] * 4, axis=0
    ),
    "one zero point": net("Conv", integers(4, 3, 3, 3, dtype=np.uint8, low=0), 0.02, 7),
    "γ < 0": net("Conv", integers(4, 3, 3, 3), EACH, gamma=[1, -1, -0.5, 2], axis=0),
    "γ = 0": net("Conv", integers(4, 3, 3, 3, dtype=np.uint8, low=0), 0.02, 7, gamma=[1, 0, 0.5, 2]),
    "a float bias": net("Conv", integers(4, 3, 3, 3), 0.02, bias="float", pads=[1] * 4),
    "an int32 bias": net("Conv", integers(4, 3, 3, 3), EACH, axis=0, bias="int32"),
    "grouped": net("Conv", integers(6, 1, 3, 3), 0.02, group=3, channels=6),
    "ConvTranspose": net("ConvTranspose", integers(3, 4, 2, 2), EACH, axis=1, strides=[2, 2]),
    "Gemm": net("Gemm", integers(6, 4), EACH, axis=1, bias="float", alpha=0.5, beta=2.0),
    "Gemm, transposed": net("Gemm", integers(4, 6), EACH, axis=0, transB=1),
    "MatMul": net("MatMul", integers(6, 4), 0.02),
    "one scale, of opset 10, and one γ": net("Conv", integers(4, 3, 3, 3), 0.02, opset=10),
}
uniform = FOLDS["one scale, of opset 10, and one γ"]
for name, number in (("bn.gamma", 0.5), ("bn.var", 1.0)):
    for tensor in uniform.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.full(4, number, np.float32), name))


@pytest.mark.parametrize("proto", FOLDS.values(), ids=FOLDS)
def test_it_folds_into_the_scale_and_the_integers_stay(tmp_path, proto):
    account, ops = folded(proto, tmp_path)
    assert account["folded"] == 1, account
    assert "into the scales of the weights of" in account["sites"][0]["how"]
    assert "BatchNormalization" not in ops
    written = onnx.load(tmp_path / "out.onnx")
    arrays = {one.name: numpy_helper.to_array(one) for one in written.graph.initializer}
    (dequantize,) = (one for one in written.graph.node if one.op_type == "DequantizeLinear")
    assert (arrays[dequantize.input[1]] > 0).all(), "a scale must be positive"
    before = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    if (before["bn.gamma"] > 0).all():
        np.testing.assert_array_equal(arrays[dequantize.input[0]], before["q"])


STAYS = {
    "−128 has no counterpart": (
        net("Conv", integers(4, 3, 3, 3, low=-128).clip(None, -128), 0.02, gamma=[1, -1, 1, 1]),
        "γ < 0 in 1 channels, and int8 cannot hold DequantizeLinear 'DequantizeLinear_w' before Conv",
    ),
    "opset 12": (
        net("Conv", integers(4, 3, 3, 3), 0.02, opset=12),
        "can have one scale only, before opset 13",
    ),
    "a scale for each input": (
        net("Conv", integers(4, 3, 3, 3), [0.01, 0.02, 0.03], axis=1),
        "has a scale for each place of axis 1, and outputs are on axis 0",
    ),
}


@pytest.mark.parametrize(("proto", "reason"), STAYS.values(), ids=STAYS)
def test_what_would_not_be_exact_stays_with_its_reason(tmp_path, proto, reason):
    account, ops = folded(proto, tmp_path)
    assert account["declined"] == 1
    assert reason in account["sites"][0]["reason"]
    assert "BatchNormalization" in ops


def test_two_readers_keep_their_own_scales(tmp_path):
    """One DequantizeLinear, two Convs, one BatchNorm: the Conv without one still reads the old scale."""
    arrays = {"q": integers(4, 3, 3, 3), "d": np.float32(0.02), **norm_arrays(4)}
    nodes = [
        node("DequantizeLinear", "q d", "w"),
        node("Conv", "x w", "h"),
        norm("h", "n"),
        node("Conv", "x w", "k"),
        node("Add", "n k", "y"),
    ]
    account, ops = folded(model(nodes, arrays, IMAGE), tmp_path)
    assert account["folded"] == 1
    assert ops.count("DequantizeLinear") == 2


def test_weights_that_are_quantized_in_the_graph_fold_where_gamma_is_positive(tmp_path):
    """As after training in int8: float weights → QuantizeLinear → DequantizeLinear → Conv."""
    arrays = {
        "f": weights(4, 3, 3, 3),
        "d": np.full(4, 0.005, np.float32),
        "z": np.zeros(4, np.int8),
        **norm_arrays(4),
    }
    nodes = [
        node("QuantizeLinear", "f d z", "q", axis=0),
        node("DequantizeLinear", "q d z", "w", axis=0),
        node("Conv", "x w", "h"),
        norm("h", "y"),
    ]
    assert folded(model(nodes, arrays, IMAGE), tmp_path)[0]["folded"] == 1
    arrays["bn.gamma"] *= -1
    account, _ = folded(model(nodes, arrays, IMAGE), tmp_path)
    assert "are computed at run time" in account["sites"][0]["reason"]


def test_parameters_that_are_integers_with_a_scale_are_the_numbers_that_they_stand_for(tmp_path):
    arrays = {"w": weights(4, 3, 3, 3), "d": np.float32(0.02), "z": np.int8(3), **norm_arrays(4)}
    last = norm("h", "y")
    for index, name in ((1, "gamma"), (2, "beta")):
        arrays[f"{name}.q"], last.input[index] = integers(4), name
    nodes = [node("DequantizeLinear", f"{name}.q d z", name) for name in ("gamma", "beta")]
    account, ops = folded(model([*nodes, node("Conv", "x w", "h"), last], arrays, IMAGE), tmp_path)
    assert (account["folded"], ops) == (1, ["Conv"])


@pytest.mark.parametrize("name", ["a scale for each output", "Gemm", "Gemm, transposed", "ConvTranspose"])
def test_zero_points_that_are_left_out_are_bundled(tmp_path, name):
    """ONNX Runtime refuses scales per channel without them where it sums int8 exactly, as a service does."""
    onnx.save(FOLDS[name], tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folded"] == 1
