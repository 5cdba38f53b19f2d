"""Branches that must stay apart: merging each of these would be wrong, or no gain."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from export.fold.parallel import merge_parallel
from export.graph.file import serialize
from export.graph.prepare import prepare
from onnx_graphs import batchnorm, batchnorm_arrays, graph, value
from parallel_kit import (
    ARRAYS,
    IMAGE,
    ONE,
    ROWS,
    THREE,
    add,
    assert_left,
    assert_merges,
    conv,
    kernel,
    merge,
    ops,
    pair,
)


def test_left_where_a_branch_has_another_reader():
    for shared in (THREE, ONE):
        relu = helper.make_node("Relu", shared.output, ["z"], name="relu")
        assert_left(pair(THREE, ONE, relu, outputs=("y", "z")))
    identity = batchnorm("x", "identity")
    relu = helper.make_node("Relu", ["identity"], ["z"], name="relu")
    assert_left(pair(THREE, identity, relu, outputs=("y", "z")))


@pytest.mark.parametrize("seen", ["three", "one"])
def test_left_where_a_branch_is_the_graphs_output(seen):
    assert_left(pair(THREE, ONE, outputs=("y", seen)))


def test_left_where_the_batchs_statistics_are_outputs():
    """Before opset 14 a BatchNormalization in training form says so only by its outputs."""
    identity = batchnorm("x", "identity")
    identity.output.extend(["mean", "var"])
    proto = pair(THREE, identity, outputs=("y", "mean", "var"), opset=9)
    proto.graph.value_info.append(value("identity", IMAGE))
    model = prepare(ir.from_proto(proto))
    before = serialize(model)
    assert merge_parallel(model.graph) == {}
    assert serialize(model) == before


def test_left_where_one_branch_is_both_operands():
    assert_left(graph([THREE, add("three", "three")], ARRAYS, IMAGE))


def test_left_where_the_tensors_differ():
    relu = helper.make_node("Relu", ["x"], ["z"], name="relu")
    for other in (conv("one", "z"), batchnorm("z", "identity")):
        assert_left(graph([relu, THREE, other, add("three", other.output[0])], ARRAYS, IMAGE))


def test_left_where_the_strides_differ():
    """7 → 2 places both ways, but the second is place 2 or place 3."""
    arrays = kernel("four", 4, 4) | kernel("like", 4, 4)
    four = conv("four", strides=[2, 2])
    assert_left(pair(four, conv("like", strides=[3, 3]), arrays=arrays))
    assert_merges(pair(four, conv("like", strides=[2, 2]), arrays=arrays), ROWS, {"Conv": 1})


def test_left_where_the_dilations_differ():
    arrays = kernel("wide", 3, 3)
    assert_left(pair(THREE, conv("wide", dilations=[2, 2], pads=[2] * 4), arrays=arrays))
    arrays |= kernel("five", 5, 5)
    assert_left(pair(conv("five", pads=[2] * 4), conv("wide", dilations=[2, 2], pads=[2] * 4), arrays=arrays))
    arrays = kernel("two", 2, 2) | kernel("like", 2, 2)  # 7 → 3 places both ways, by rounding
    two = conv("two", strides=[2, 2])
    assert_left(pair(two, conv("like", strides=[2, 2], dilations=[2, 2]), arrays=arrays))


def test_left_where_neither_kernel_covers_the_other():
    """1×7 + 7×1 would be 7×7: 49 products a place instead of 14."""
    arrays = kernel("wide", 1, 7) | kernel("tall", 7, 1)
    assert_left(pair(conv("wide", pads=[0, 3, 0, 3]), conv("tall", pads=[3, 0, 3, 0]), arrays=arrays))


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ([0, 0, 2, 2], [1, 1, 0, 0]),  # it would begin at −1
        ([2, 2, 0, 0], [0, 0, 1, 1]),  # it would end at 4 of 3
        ([1, 0, 1, 2], [1, 1, 0, 0]),  # only the second dimension is off
    ],
)
def test_left_where_the_pads_do_not_line_up(large, small):
    arrays = kernel("two", 2, 2)
    assert_left(pair(conv("three", pads=large), conv("two", pads=small), arrays=arrays))


def test_left_where_the_sizes_agree_only_by_rounding():
    """Stride 2: both make 4 places of 7, but of 6 one would make 3 and the other 4."""
    strided = conv("three", pads=[1] * 4, strides=[2, 2])
    assert_left(pair(strided, conv("one", pads=[0, 0, 1, 1], strides=[2, 2])))
    sound = pair(strided, conv("one", strides=[2, 2]))
    assert_merges(sound, ROWS, {"Conv": 1})


def test_left_where_the_identity_would_fall_between_the_taps():
    """Two taps with dilation 2 and pads 1 look at places −1 and +1, never at 0."""
    arrays = kernel("two", 2, 2)
    apart = conv("two", dilations=[2, 2], pads=[1] * 4)
    assert_left(pair(apart, batchnorm("x", "identity"), arrays=arrays))
    assert_left(pair(apart, ONE, arrays=arrays))


def test_left_where_an_identity_meets_a_stride():
    """Seven places in, seven out, but at every second place of a wide border."""
    arrays = kernel("nine", 9, 9)
    strided = conv("nine", strides=[2, 2], pads=[7] * 4)
    assert_left(pair(strided, batchnorm("x", "identity"), arrays=arrays))


def test_left_where_the_channels_are_broadcast():
    """BN(x) of one channel, or a Conv to one channel, added to four."""
    one_channel = ["rows", 1, 7, 7]
    arrays = kernel("three", 3, 3, inputs=1) | batchnorm_arrays(1, 0)
    assert_left(pair(THREE, batchnorm("x", "identity"), arrays=arrays, shape=one_channel))
    assert_left(pair(THREE, ONE, arrays=kernel("one", 1, 1, outputs=1)))


def test_left_where_space_is_broadcast():
    """A kernel as large as the picture: one place, added to all."""
    arrays = kernel("seven", 7, 7)
    assert_left(pair(conv("seven"), batchnorm("x", "identity"), arrays=arrays))
    assert_left(pair(conv("seven"), ONE, arrays=arrays))


def test_left_where_the_shape_is_unknown():
    assert_left(pair(THREE, ONE, shape=["rows", 4, "height", 7]))


def test_left_where_an_add_between_them_is_a_late_bias():
    arrays = {"late": np.ones((1, 4, 7, 7))}
    nodes = [THREE, ONE, add("three", "late", "s"), add("s", "one")]
    assert_left(graph(nodes, ARRAYS | arrays, [1, 4, 7, 7]))


@pytest.mark.parametrize(("rows", "axis"), [("rows", 1), ("rows", 0), (2, 0)])
def test_left_where_an_add_between_them_broadcasts(rows, axis):
    mean = helper.make_node("ReduceMean", ["x", "axes"], ["mean"], name="mean")
    nodes = [THREE, ONE, mean, add("three", "mean", "s"), add("s", "one")]
    assert_left(graph(nodes, ARRAYS | {"axes": np.array([axis])}, [rows, 4, 7, 7]))


@pytest.mark.parametrize("name", ["three", "one"])
def test_left_where_a_weight_is_shared(name):
    node = {"three": THREE, "one": ONE}[name]
    twin = helper.make_node("Conv", [*node.input[:2]], ["z"], name="twin")
    assert_left(pair(THREE, ONE, twin, outputs=("y", "z")))


def test_left_where_both_branches_share_their_weight():
    assert_left(pair(THREE, conv("one", weight="three.w", pads=[1] * 4)))


@pytest.mark.parametrize("index", [1, 2], ids=["weight", "bias"])
def test_left_where_a_convs_constants_are_computed(index):
    node = conv("one")
    node.input[index] = "computed"
    given = value("computed", [4, 4, 1, 1] if index == 1 else [4])
    assert_left(pair(THREE, node, extra_inputs=[given]))


def test_left_in_training_mode():
    assert_left(pair(THREE, batchnorm("x", "identity", training_mode=1)))


def test_left_where_only_batchnorms_are_summed():
    second = helper.make_node("BatchNormalization", [*batchnorm("x", "").input], ["second"], name="bn2")
    assert_left(pair(batchnorm("x", "identity"), second))


def test_left_where_a_plain_residual_is_all_there_is():
    nodes = [THREE, add("three", "x")]
    assert_left(graph(nodes, ARRAYS, IMAGE))


def test_left_where_float16_would_overflow():
    arrays = {"three.w": np.full((4, 4, 3, 3), 4e4), "one.w": np.full((4, 4, 1, 1), 2e4)}
    _, merged, _ = merge(pair(THREE, ONE, arrays=arrays, dtype=np.float16))
    assert ops(merged) == {"Conv": 1}
    arrays["one.w"] *= 2
    assert_left(pair(THREE, ONE, arrays=arrays, dtype=np.float16))


def test_left_in_mixed_precision():
    """float16 rows and weights, float32 statistics: allowed in a BatchNormalization since opset 15."""
    proto = pair(THREE, batchnorm("x", "identity"), dtype=np.float16)
    _, merged, _ = merge(proto)
    assert ops(merged) == {"Conv": 1}
    for tensor in proto.graph.initializer:
        if tensor.name in ("bn.mean", "bn.var"):
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(ARRAYS[tensor.name].astype(np.float32), name=tensor.name)
            )
    assert_left(proto)
