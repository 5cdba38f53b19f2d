"""Moments: what BatchNorms know, carried through ops and through the fold, is what rows really show."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from export.fold.stages import fold
from export.graph.file import serialize
from export.graph.moments import Moments, know, moments_of
from export.graph.prepare import prepare
from export.int8.bounds import hard_bounds
from export.int8.functions import clip_limits
from export.int8.moments import carry_moments, normal
from export.int8.observe import observe
from export.int8.ranges import from_statistics
from export.sources.trace import trace
from lively_nets import lively_net
from onnx_graphs import graph
from service.contract.tensors import TensorSpec

ROWS = np.random.default_rng(1).normal(size=(64, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("resnet", {"depth": 8, "width": 8}), ("preact-resnet", {"depth": 8, "width": 8}), ("repvgg", {})],
)
def test_they_are_what_rows_show_after_the_fold(name, settings):
    """Every tensor that a BatchNorm knew: its mean and deviation, in the units that the fold stores it in."""
    unfolded = prepare(trace(lively_net(name, ROWS, **settings), (3, 16, 16)))
    assert carry_moments(unfolded) > 3
    folded, _ = fold(unfolded)
    carry_moments(folded)
    known = {value.name: moments_of(value) for node in folded.graph for value in node.outputs}
    proto = onnx.load_from_string(serialize(folded))
    seen = observe(proto, lambda: [{proto.graph.input[0].name: ROWS}], with_bins=False)
    checked = 0
    for node in proto.graph.node:
        moments, one = known.get(node.output[0]), seen.get(node.output[0])
        if moments is None or one is None:
            continue
        low, high = float(moments.low.min()), float(moments.high.max())
        width = one.high - one.low
        assert low <= one.low + 0.15 * width, node.name
        assert high >= one.high - 0.15 * width, node.name
        if node.op_type == "Conv" and moments.mean.size == one.mean.size:
            deviation = float(moments.std.max())
            assert np.abs(moments.mean.ravel() - one.mean).max() < 0.5 * deviation, node.name
            checked += 1
    assert checked > 3


def test_a_tensor_stored_otherwise_has_other_moments():
    stored = normal(np.array([1.0, 2.0]), np.array([1.0, 0.5])).stored(
        np.array([-2.0, 1.0]), np.array([1.0, 0.0])
    )
    assert stored.mean.tolist() == [-4.0, 2.0]
    assert stored.std.tolist() == [2.0, 0.5]
    assert stored.low.tolist() == [-16.0, -1.0]
    assert stored.high.tolist() == [8.0, 5.0]


def after(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray] | None = None) -> Moments | None:
    """What is known at the end, when "x" is N(0.5, 1) in channel 0 and N(−1, 2²) in channel 1."""
    model = prepare(ir.from_proto(graph(list(nodes), weights or {}, ["rows", 2, 4, 4], dtype=np.float32)))
    shape = (1, 2, 1, 1)
    know(
        model.graph.inputs[0],
        normal(np.array([0.5, -1.0]).reshape(shape), np.array([1.0, 2.0]).reshape(shape)),
    )
    carry_moments(model)
    return moments_of(model.graph.outputs[0])


def drawn_rows() -> np.ndarray:
    chance = np.random.default_rng(0).normal(size=(200_000, 2))
    return chance * [1.0, 2.0] + [0.5, -1.0]


@pytest.mark.parametrize(
    ("op_type", "attributes", "function"),
    [
        ("Relu", {}, lambda x: np.maximum(x, 0)),
        ("Sigmoid", {}, lambda x: 1 / (1 + np.exp(-x))),
        ("LeakyRelu", {"alpha": 0.2}, lambda x: np.where(x < 0, 0.2 * x, x)),
        ("HardSwish", {}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
        ("Tanh", {}, np.tanh),
        ("Elu", {"alpha": 1.0}, lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x)),
    ],
)
def test_a_function_of_a_normal_is_as_drawn(op_type, attributes, function):
    moments = after(helper.make_node(op_type, ["x"], ["y"], **attributes))
    assert moments is not None
    values = function(drawn_rows())
    assert moments.mean.ravel() == pytest.approx(values.mean(axis=0), abs=0.01)
    assert moments.std.ravel() == pytest.approx(values.std(axis=0), rel=0.02)
    assert (moments.low.ravel() <= values.min(axis=0) + 0.01).all()
    assert (moments.high.ravel() >= values.max(axis=0) - 0.01).all()


def test_a_clip_bounds_the_range():
    limits = {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    moments = after(helper.make_node("Clip", ["x", "low", "high"], ["y"]), weights=limits)
    assert moments is not None
    assert (moments.low.min(), moments.high.max()) == (0, 6)


def test_a_gate_is_not_taken_for_independent():
    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    moments = after(*nodes)
    assert moments is not None
    rows = drawn_rows()
    assert moments.mean.ravel() == pytest.approx((rows / (1 + np.exp(-rows))).mean(axis=0), abs=0.01)
    assert moments.low.min() > -0.3, "x · sigmoid(x) is never below −0.28"


def test_a_gate_in_several_steps_is_not_either():
    """HardSwish as exporters write it: x · Clip(x + 3, 0, 6) / 6."""
    weights = {"three": np.array(3.0), "six": np.array(6.0), "zero": np.array(0.0)}
    nodes = [
        helper.make_node("Add", ["x", "three"], ["a"]),
        helper.make_node("Clip", ["a", "zero", "six"], ["c"]),
        helper.make_node("Div", ["c", "six"], ["d"]),
        helper.make_node("Mul", ["x", "d"], ["y"]),
    ]
    moments = after(*nodes, weights=weights)
    whole = after(helper.make_node("HardSwish", ["x"], ["y"]))
    assert moments is not None
    assert whole is not None
    assert moments.mean == pytest.approx(whole.mean)
    assert moments.low == pytest.approx(whole.low)


def test_a_sigmoid_of_anything_is_between_0_and_1():
    weight = {"w": np.ones((2, 2, 1, 1))}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Sigmoid", ["c"], ["y"])]
    moments = after(*nodes, weights=weight)
    assert moments is not None
    assert (moments.low.min(), moments.high.max()) == (0, 1)


@pytest.mark.parametrize("op_type", ["Flatten", "Transpose", "GlobalAveragePool", "MaxPool", "Concat"])
def test_moments_have_the_rank_of_their_tensor(op_type):
    attributes = {
        "Transpose": {"perm": [0, 2, 3, 1]},
        "MaxPool": {"kernel_shape": [2, 2]},
        "Concat": {"axis": 1},
    }
    inputs = ["x", "x"] if op_type == "Concat" else ["x"]
    moments = after(helper.make_node(op_type, inputs, ["y"], **attributes.get(op_type, {})))
    assert moments is not None
    sizes = {"Flatten": (1, 32), "Transpose": (1, 1, 1, 1), "Concat": (1, 4, 1, 1)}
    assert moments.mean.shape == sizes.get(op_type, (1, 2, 1, 1))


def test_a_linear_op_without_a_batchnorm_ends_them():
    weight = {"w": np.ones((3, 2, 1, 1), np.float32)}
    assert after(helper.make_node("Conv", ["x", "w"], ["y"]), weights=weight) is None


def test_the_limits_of_a_clip():
    clip = ir.node("Clip", [ir.Value(name="x")], {"min": -1.0, "max": 2.0})
    assert clip_limits(clip) == (-1.0, 2.0)


def before(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray], means: np.ndarray) -> ir.Model:
    """The graph after `carry_moments`, when a BatchNorm that ends it found mean `means` and deviation 2."""
    size = means.size
    norm = {"g": np.ones(size), "b": np.zeros(size), "m": means, "v": np.full(size, 4.0)}
    last = helper.make_node("BatchNormalization", ["read", "g", "b", "m", "v"], ["y"], epsilon=0.0)
    made = graph([*nodes, last], weights | norm, ["rows", 2, 4, 4], dtype=np.float32)
    model = prepare(ir.from_proto(made))
    carry_moments(model)
    return model


def known(model: ir.Model, name: str) -> Moments:
    (value,) = [value for node in model.graph for value in node.outputs if value.name == name]
    moments = moments_of(value)
    assert moments is not None
    return moments


def test_parts_of_a_concat_have_its_moments():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Conv", ["x", "u"], ["d"]),
        helper.make_node("Concat", ["c", "d"], ["read"], axis=1),
    ]
    weights = {"w": np.ones((3, 2, 1, 1)), "u": np.ones((1, 2, 1, 1))}
    model = before(*nodes, weights=weights, means=np.array([1.0, 2.0, 3.0, 4.0]))
    assert known(model, "c").mean.ravel().tolist() == [1, 2, 3]
    assert known(model, "d").mean.ravel().tolist() == [4]
    assert known(model, "d").std.ravel().tolist() == [2]


def test_a_residual_branch_is_what_its_sum_leaves():
    """Sum and stream are normal with deviations 2 and 1: the branch has √3 if independent of the stream."""
    one = {"h": np.full(2, 0.5), "n": np.ones(2)}
    nodes = [
        helper.make_node("BatchNormalization", ["x", "n", "h", "h", "n"], ["stream"], epsilon=0.0),
        helper.make_node("Conv", ["stream", "w"], ["branch"]),
        helper.make_node("Add", ["branch", "stream"], ["read"]),
    ]
    model = before(*nodes, weights={"w": np.ones((2, 2, 1, 1))} | one, means=np.array([1.0, 3.0]))
    assert known(model, "branch").mean.ravel().tolist() == [0.5, 2.5]
    assert np.sqrt(3) < known(model, "branch").std.max() < 3, "wide enough for branches against the stream"


def test_two_branches_without_a_batchnorm_are_no_wider_than_their_sum():
    one = {"h": np.full(2, 0.5), "n": np.ones(2)}
    nodes = [
        helper.make_node("BatchNormalization", ["x", "n", "h", "h", "n"], ["stream"], epsilon=0.0),
        helper.make_node("Conv", ["stream", "w"], ["c"]),
        helper.make_node("MaxPool", ["stream"], ["p"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["p", "w", "k"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["read"]),
    ]
    weights = {"w": np.ones((2, 2, 1, 1)), "k": np.array([0.0, 7.0])} | one
    model = before(*nodes, weights=weights, means=np.array([2.0, 9.0]))
    assert known(model, "c").mean.ravel().tolist() == [1, 1], (
        "the weights' sums by the means of what they read"
    )
    assert known(model, "d").mean.ravel().tolist() == [1, 8]
    assert known(model, "d").std.max() == 2


def test_a_relu_that_a_batchnorm_reads_keeps_its_bounds():
    """Its statistics are not those of a normal: below 0 nothing comes out of a Relu."""
    one = {"h": np.full(2, 0.5), "n": np.ones(2)}
    nodes = [
        helper.make_node("BatchNormalization", ["x", "n", "h", "h", "n"], ["c"], epsilon=0.0),
        helper.make_node("Relu", ["c"], ["read"]),
    ]
    moments = known(before(*nodes, weights=one, means=np.array([0.7, 0.7])), "read")
    assert moments.low.min() == 0
    assert moments.mean.ravel() == pytest.approx(0.7)
    assert moments.high.max() == 6.5, "6σ of the BatchNorm before"


def test_the_first_conv_reaches_no_further_than_its_input_allows():
    weights = {"w": np.array([[1.0, -1.0], [2.0, 0.5]]).reshape(2, 2, 1, 1), "b": np.array([0.0, 1.0])}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"]),
    ]
    model = ir.from_proto(graph(nodes, weights, ["rows", 2, 4, 4], dtype=np.float32))
    spec = TensorSpec(name="x", dtype="float32", shape=[None, 2, 4, 4], minimum=-1.0, maximum=3.0)
    assert hard_bounds(model, [spec]) == {"x": (-1, 3), "c": (-4, 8.5), "r": (0, 8.5)}


def test_a_range_never_begins_below_a_relu():
    """Conv → Relu → BatchNorm: the quantizer leaves the Relu out, so that its range must cut."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["read"])]
    model = before(*nodes, weights={"w": np.ones((2, 2, 1, 1))}, means=np.array([1.0, 3.0]))
    assert known(model, "read").low.min() < 0, "a normal's"
    proto = onnx.load_from_string(serialize(model))
    shown = observe(proto, lambda: [{"x": ROWS[:2, :2, :4, :4]}], with_bins=False)
    low, high = from_statistics(model, shown, [], "golden rows").ranges["read"]
    assert (low, high) == (0, 15)
