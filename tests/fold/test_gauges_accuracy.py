"""What a BatchNorm with a tiny γ costs the others: itself, and only where its rounding is read."""

import numpy as np
import onnx
import onnx_ir
import pytest

from export.fold.stages import fold
from export.graph.prepare import prepare
from file_kit import folded, model, node, norm, norm_arrays, weights

X = {"x": ["N", 3, 8, 8]}
STEM = [node("Conv", "x w", "h")]
ARRAYS = {
    "w": weights(8, 3, 3, 3),
    "wa": weights(4, 8, 1, 1),
    **norm_arrays(8, 0, "a"),
    **norm_arrays(8, 1, "b"),
}
RELU = [norm("h", "na", "a"), node("Relu", "na", "ra"), node("Conv", "ra wa", "y1")]


def tiny(value: float) -> dict[str, np.ndarray]:
    """γ of `a` is tiny in one channel: BN → Relu asks for an offset of t/s on h."""
    gamma = ARRAYS["a.gamma"].copy()
    gamma[3] = value
    return {**ARRAYS, "a.gamma": gamma}


FAR = {
    "a pool": [node("AveragePool", "h", "f", kernel_shape=[2, 2])],
    "a concat": [
        node("Conv", "x w", "g"),
        node("Concat", "h g", "k", axis=1),
        node("Slice", "k from to axis", "f"),
    ],
    "an add": [node("Conv", "x w", "g"), node("Add", "h g", "f")],
    "a scale": [node("Mul", "h two", "f")],
    "a constant that takes the offset off": [node("Sub", "h two", "f")],
    "two pools": [
        node("AveragePool", "h", "e", kernel_shape=[2, 2]),
        node("AveragePool", "e", "f", kernel_shape=[2, 2]),
    ],
}


@pytest.mark.parametrize("way", FAR)
def test_a_reader_after_other_ops_counts(tmp_path, way):
    nodes = [*STEM, *RELU, *FAR[way], norm("f", "nb", "b"), node("Sigmoid", "nb", "y2")]
    more = {
        "from": np.array([0]),
        "to": np.array([8]),
        "axis": np.array([1]),
        "two": np.full((1, 8, 1, 1), 2, np.float32),
    }
    account, _ = folded(model(nodes, {**tiny(1e-7), **more}, X, ("y1", "y2")), tmp_path)
    sites = {site["name"]: site for site in account["sites"]}
    first = sites["BatchNormalization_na"]
    assert first["status"] == "declined"
    assert "it would cost accuracy" in first["reason"]
    assert "as measured" not in first["reason"], "the estimate sees it, before anything is run"
    ordinary, _ = folded(model(nodes, {**ARRAYS, **more}, X, ("y1", "y2")), tmp_path)
    assert ordinary["declined"] <= 1, "it is the tiny channel that costs"


def test_a_threshold_is_bought_rather_than_a_huge_offset(tmp_path):
    """The stem is read by two BatchNorms; with the Relu as a Max, the tiny one needs no offset on it."""
    other = [norm("h", "nb", "b"), node("Relu", "nb", "rb"), node("Conv", "rb wa", "y2")]
    proto = model([*STEM, *RELU, *other], tiny(1e-6), X, ("y1", "y2"))
    assert folded(proto, tmp_path)[0]["declined"] >= 1
    account, ops = folded(proto, tmp_path, "--threshold")
    assert account["folded"] == 2, account
    assert "Max" in ops


def test_a_shift_goes_forward_where_it_would_be_huge_on_the_input(tmp_path):
    """BN → Conv without padding: y's own shift is small, and t/s on x would not be."""
    nodes = [
        *STEM,
        norm("h", "na", "a"),
        node("Conv", "na wa", "y1"),
        norm("h", "nb", "b"),
        node("Conv", "nb wa", "y2"),
    ]
    account, ops = folded(model(nodes, tiny(1e-7), X, ("y1", "y2")), tmp_path)
    assert account["folded"] == 2, account
    assert ops == ["Conv"] * 3


def test_an_overflow_in_float16_keeps_only_its_own(tmp_path):
    """Two BN → pool → Conv beside each other; the scale of one does not fit into float16."""
    nodes, outputs = [node("Sigmoid", "x", "q")], []
    arrays = {**norm_arrays(3, 0, "a"), **norm_arrays(3, 1, "b"), "w": weights(4, 3, 3, 3)}
    arrays["a.gamma"], arrays["a.var"] = np.full(3, 6e4), np.full(3, 1e-2)
    for one in "ab":
        nodes += [norm("q", f"n{one}", one), node("AveragePool", f"n{one}", f"p{one}", kernel_shape=[1, 1])]
        nodes += [node("Conv", f"p{one} w", f"y{one}")]
        outputs.append(f"y{one}")
    arrays = {name: np.asarray(array, np.float16) for name, array in arrays.items()}
    proto = model(nodes, arrays, X, outputs)
    for info in (*proto.graph.input, *proto.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    after, sites = fold(prepare(onnx_ir.from_proto(proto)))
    assert [site.status for site in sites] == ["declined", "folded"]
    assert "overflow float16" in sites[0].reason
    assert [one.op_type for one in after.graph].count("BatchNormalization") == 1
