"""Integer weights that are transposed at run time: stored as their op reads them, they take a BatchNorm."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from export.graph.prepare import prepare
from file_kit import folded, model, node, norm, norm_arrays, weights

PICTURE, ROW = {"x": ["N", 3, 8, 8]}, {"x": ["N", 6]}
EACH = np.linspace(0.01, 0.04, 4, dtype=np.float32)
CHANNELS_LAST = [0, 3, 1, 2]


def integers(*shape: int, dtype: type = np.int8) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 127, shape).astype(dtype)


def net(
    op: str, integer: np.ndarray, scale: Any, zero: Any = None, perm: Any = CHANNELS_LAST, **options: Any
) -> onnx.ModelProto:
    """DequantizeLinear → Transpose → weights of `op` → BatchNormalization → y."""
    axis, opset = options.pop("axis", None), options.pop("opset", 21)
    arrays = {"q": integer, "d": np.asarray(scale, dtype=np.float32), **norm_arrays(4)}
    if zero is not None:
        arrays["z"] = np.asarray(zero, dtype=integer.dtype)
    nodes = [
        node(
            "DequantizeLinear",
            "q d" if zero is None else "q d z",
            "f",
            **({} if axis is None else {"axis": axis}),
        ),
        node("Transpose", "f", "w", **({} if perm is None else {"perm": perm})),
        node(op, "x w", "h", **options),
        norm("h", "y"),
    ]
    return model(nodes, arrays, ROW if op in ("Gemm", "MatMul") else PICTURE, opset=opset)


FOLDS = {
    "TensorFlow's Conv": net("Conv", integers(4, 3, 3, 3), EACH, [0] * 4, axis=0),
    "an axis from the end": net("Conv", integers(3, 3, 3, 4), EACH, perm=[3, 2, 0, 1], axis=-1),
    "zero points": net("Conv", integers(4, 2, 2, 3, dtype=np.uint8), EACH, [128, 3, 0, 255], axis=0),
    "one scale": net("Conv", integers(4, 2, 2, 3), 0.02, np.int8(7)),
    "one scale, of opset 19": net("Conv", integers(4, 2, 2, 3), 0.02, opset=19),
    "depthwise": net("Conv", integers(1, 3, 3, 4), EACH, perm=[3, 0, 1, 2], axis=3, group=4),
    "ConvTranspose": net("ConvTranspose", integers(4, 2, 2, 3), EACH, perm=[3, 0, 1, 2], axis=0),
    "MatMul": net("MatMul", integers(4, 6), EACH, perm=[1, 0], axis=0),
    "MatMul, perm left out": net("MatMul", integers(4, 6), EACH, perm=None, axis=0),
    "Gemm, transposed twice": net("Gemm", integers(6, 4), EACH, perm=[1, 0], axis=1, transB=1),
}
FOLDS["depthwise"].graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4


@pytest.mark.parametrize("proto", FOLDS.values(), ids=FOLDS)
def test_it_folds_into_the_scale(tmp_path, proto):
    account, ops = folded(proto, tmp_path)
    assert account["folded"] == 1, account
    assert "into the scales of the weights of" in account["sites"][0]["how"]
    assert not {"Transpose", "BatchNormalization"} & set(ops)
    before = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}["q"]
    written = [numpy_helper.to_array(one) for one in onnx.load(tmp_path / "out.onnx").graph.initializer]
    (after,) = (array for array in written if array.dtype == before.dtype and array.size == before.size)
    np.testing.assert_array_equal(np.sort(after, axis=None), np.sort(before, axis=None))


@pytest.mark.parametrize("proto", FOLDS.values(), ids=FOLDS)
def test_the_weights_are_the_same_to_the_last_bit(proto):
    """What the op reads, before and after its Transpose has moved."""
    plain = ir.to_proto(prepare(ir.from_proto(proto)))
    assert "Transpose" not in [one.op_type for one in plain.graph.node]
    for graph in (proto.graph, plain.graph):
        (reader,) = (one for one in graph.node if one.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm"))
        del graph.output[:]
        graph.output.append(onnx.helper.make_tensor_value_info(reader.input[1], onnx.TensorProto.FLOAT, None))
    rows = np.zeros([2, *(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:])])
    feed = {"x": rows.astype(np.float32)}
    (expected,), (found,) = (ReferenceEvaluator(one).run(None, feed) for one in (proto, plain))
    np.testing.assert_array_equal(found, expected)


def test_another_reader_keeps_the_old_order(tmp_path):
    """One DequantizeLinear, read as it is and transposed."""
    arrays = {"q": integers(3, 3, 2, 2), "d": np.float32(0.02), **norm_arrays(3)}
    nodes = [
        node("DequantizeLinear", "q d", "f"),
        node("Transpose", "f", "w", perm=[1, 0, 2, 3]),
        node("Conv", "x w", "h"),
        norm("h", "n"),
        node("Conv", "x f", "k"),
        node("Add", "n k", "y"),
    ]
    account, ops = folded(model(nodes, arrays, PICTURE), tmp_path)
    assert account["folded"] == 1
    assert "Transpose" not in ops
    assert ops.count("DequantizeLinear") == 2


def test_a_scale_for_each_input_channel_stays(tmp_path):
    proto = net("Conv", integers(4, 2, 2, 3), [0.01, 0.02, 0.03], axis=3)
    account, _ = folded(proto, tmp_path)
    assert "has a scale for each place of axis 1, and outputs are on axis 0" in account["sites"][0]["reason"]


def test_what_is_no_weight_stays_transposed(tmp_path):
    """An output of the graph, or a branch of an Add; and scales of blocks, which no BatchNorm folds into."""
    arrays = {"q": integers(6, 4), "d": np.float32(0.02), "w": weights(4, 6)}
    dequantize, transpose = node("DequantizeLinear", "q d", "f"), node("Transpose", "f", "t", perm=[1, 0])
    added = [dequantize, transpose, node("Gemm", "x t", "h", transB=1), node("Add", "w t", "y")]
    shown = [dequantize, transpose, node("Gemm", "x t", "y", transB=1)]
    blocks = {**arrays, "d": np.full((3, 4), 0.02, np.float32)}
    blocked = [node("DequantizeLinear", "q d", "f", axis=0, block_size=2), *shown[1:]]
    for proto in (
        model(added, arrays, ROW, ["h", "y"]),
        model(shown, arrays, ROW, ["t", "y"]),
        model(blocked, blocks, ROW, opset=21),
    ):
        assert "Transpose" in [one.op_type for one in prepare(ir.from_proto(proto)).graph]
