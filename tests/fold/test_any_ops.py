"""Ops that exporters write between a BatchNorm and the weights that take it: each folds, and is proved."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from file_kit import assert_all_fold, folded, model, node, norm, norm_arrays, weights

X = {"x": ["N", 3, 8, 8]}
HEAD = [node("Conv", "x w0", "h"), node("Sigmoid", "h", "q"), norm("q", "n")]
ARRAYS = {"w0": weights(4, 3, 3, 3), **norm_arrays(4)}


def before_conv(*between: onnx.NodeProto, channels: int = 4, **arrays: np.ndarray) -> onnx.ModelProto:
    """Sigmoid → BatchNorm → ops → Conv without padding, which can take it if the ops let it through."""
    last = between[-1].output[0] if between else "n"
    tail = node("Conv", f"{last} w", "y")
    return model([*HEAD, *between, tail], {**ARRAYS, "w": weights(4, channels, 2, 2), **arrays}, X, opset=18)


PADS = np.array([0, 0, 1, 2, 0, 0, 2, 1])


@pytest.mark.parametrize("form", ["all axes", "axes given", "axes from the end"])
def test_a_pad_by_zeros_before_a_conv_folds_at_the_price_of_its_border(tmp_path, form):
    arrays = {"p": PADS} if form == "all axes" else {"p": np.array([1, 2, 2, 1])}
    if form != "all axes":
        arrays["axes"] = np.array([2, 3] if form == "axes given" else [-2, -1])
    proto = before_conv(node("Pad", "n p" + (" - axes" if form != "all axes" else ""), "k"), **arrays)
    free, _ = folded(proto, tmp_path)
    assert free["declined"] == 1
    assert "the padding of Pad 'Pad_k' allows no shift" in free["sites"][0]["reason"]
    paid, left = folded(proto, tmp_path, "--pad")
    assert paid["folded"] == 1
    assert left == ["Conv", "Sigmoid", "Pad", "Add", "Conv"]


def test_a_pad_by_edges_is_free(tmp_path):
    assert_all_fold(before_conv(node("Pad", "n p", "k", mode="edge"), p=PADS), tmp_path)


def test_a_pad_of_channels_or_by_a_number_keeps_its_batchnorm(tmp_path):
    channels = before_conv(node("Pad", "n p", "k"), channels=5, p=np.array([0, 1, 0, 0, 0, 0, 0, 0]))
    number = before_conv(node("Pad", "n p v", "k"), p=PADS, v=np.float32(1))
    for proto in (channels, number):
        assert folded(proto, tmp_path, "--pad")[0]["declined"] == 1


def test_a_pad_that_only_crops_is_free(tmp_path):
    assert_all_fold(before_conv(node("Pad", "n p", "k"), p=np.minimum(-PADS, 0)), tmp_path)


@pytest.mark.parametrize("op_type", ["Sum", "Mean"])
@pytest.mark.parametrize("count", [2, 3])
def test_a_sum_of_convs_takes_a_batchnorm(tmp_path, count, op_type):
    names = [f"h{index}" for index in range(count)]
    nodes = [node("Conv", f"x v{index}", name, pads=[index] * 4) for index, name in enumerate(names)]
    arrays = {f"v{index}": weights(4, 3, 2 * index + 1, 2 * index + 1, seed=index) for index in range(count)}
    nodes += [node(op_type, " ".join(names), "s"), norm("s", "n"), node("Sigmoid", "n", "y")]
    assert_all_fold(model(nodes, {**arrays, **norm_arrays(4)}, X), tmp_path)


def test_a_sum_of_one_branch_that_cannot_keeps_it(tmp_path):
    nodes = [
        node("Conv", "x w0", "h"),
        node("Sigmoid", "h", "q"),
        node("Conv", "x v", "k"),
        node("Sum", "h k q", "s"),
    ]
    proto = model([*nodes, norm("s", "y")], {**ARRAYS, "v": weights(4, 3, 3, 3, seed=1)}, X)
    assert folded(proto, tmp_path)[0]["declined"] == 1


def test_a_cast_to_another_float_lets_it_through(tmp_path):
    double = node("Cast", "n", "d", to=TensorProto.DOUBLE)
    back = node("Cast", "d", "k", to=TensorProto.FLOAT)
    assert_all_fold(before_conv(double, back), tmp_path)


def test_a_cast_to_integers_does_not(tmp_path):
    proto = before_conv(
        node("Cast", "n", "i", to=TensorProto.INT32), node("Cast", "i", "k", to=TensorProto.FLOAT)
    )
    assert folded(proto, tmp_path)[0]["declined"] == 1


def generator(*, between: bool) -> onnx.ModelProto:
    """Gemm → Reshape → BatchNorm, as a GAN's generator begins."""
    nodes = [node("Gemm", "z f", "h"), node("Reshape", "h s", "q")]
    nodes += [node("Relu", "q", "r"), norm("r", "n")] if between else [norm("q", "n")]
    arrays = {"f": weights(10, 64), "s": np.array([0, 4, 4, 4]), **norm_arrays(4), "w": weights(4, 4, 2, 2)}
    return model([*nodes, node("Conv", "n w", "y")], arrays, {"z": ["N", 10]})


@pytest.mark.parametrize("between", [False, True])
def test_features_that_become_channels_take_a_batchnorm(tmp_path, between):
    assert_all_fold(generator(between=between), tmp_path)


def test_features_that_become_channels_need_one_scale_a_channel(tmp_path):
    """Two BatchNorms: of the Gemm's features, which is gone, and of the channels."""
    nodes = [node("Gemm", "z f", "h"), norm("h", "m", "one"), node("Reshape", "m s", "q"), norm("q", "y")]
    arrays = {
        "f": weights(10, 64),
        "s": np.array([0, 4, 4, 4]),
        **norm_arrays(4),
        **norm_arrays(64, 1, "one"),
    }
    assert_all_fold(model(nodes, arrays, {"z": ["N", 10]}), tmp_path)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_and_back_let_it_through(tmp_path, mode):
    """After a pixel shuffle a BatchNorm goes into the Conv before it; before one, its channels must agree."""
    nodes = [node("Conv", "x w", "h"), node("DepthToSpace", "h", "d", blocksize=2, mode=mode), norm("d", "n")]
    arrays = {"w": weights(16, 3, 3, 3), **norm_arrays(4)}
    assert_all_fold(model([*nodes, node("Sigmoid", "n", "y")], arrays, X), tmp_path)


def test_space_to_depth_lets_it_through(tmp_path):
    assert_all_fold(before_conv(node("SpaceToDepth", "n", "d", blocksize=2), channels=16), tmp_path)


def test_depth_to_space_of_channels_that_differ_does_not(tmp_path):
    shuffle = node("DepthToSpace", "n", "d", blocksize=2)
    assert folded(before_conv(shuffle, channels=1), tmp_path)[0]["declined"] == 1


@pytest.mark.parametrize("upper", ["none", "infinite", "largest"])
def test_a_clip_at_zero_alone_is_a_relu(tmp_path, upper):
    bound = {"none": "", "infinite": " top", "largest": " top"}[upper]
    top = {"infinite": np.float32(np.inf), "largest": np.finfo(np.float32).max}.get(upper, np.float32(0))
    proto = before_conv(
        node("Clip", f"n zero{bound}", "k"), zero=np.float32(0), top=np.asarray(top, np.float32)
    )
    assert folded(proto, tmp_path)[0]["declined"] == 1, "its shift is before what cuts at 0"
    account, left = folded(proto, tmp_path, "--threshold")
    assert (account["folded"], "Clip" in left) == (1, False)


def test_a_clip_at_six_is_not(tmp_path):
    proto = before_conv(node("Clip", "n zero six", "k"), zero=np.float32(0), six=np.float32(6))
    assert folded(proto, tmp_path)[0]["declined"] == 1


def test_expand_and_tile_let_it_through(tmp_path):
    nodes = [
        *HEAD,
        node("GlobalAveragePool", "n", "g"),
        node("Expand", "g shape", "e"),
        node("Tile", "e times", "t"),
    ]
    arrays = {
        **ARRAYS,
        "shape": np.array([1, 4, 3, 3]),
        "times": np.array([1, 2, 1, 2]),
        "w": weights(5, 8, 2, 2),
    }
    assert_all_fold(model([*nodes, node("Conv", "t w", "y")], arrays, X), tmp_path)


def test_channels_that_a_reader_on_another_axis_ties(tmp_path):
    """(rows, 4, 1) → MatMul on the last axis, whose one gauge is that of all channels."""
    nodes = [node("Conv", "x w0", "h"), node("Sigmoid", "h", "q"), norm("q", "n"), node("MatMul", "n w", "y")]
    arrays = {"w0": weights(4, 3, 8), "w": weights(1, 5), **norm_arrays(4)}
    account, _ = folded(model(nodes, arrays, {"x": ["N", 3, 8]}), tmp_path)
    assert account["declined"] == 1


WINDOW = {"kernel_shape": [2, 2], "strides": [2, 2]}
UNSHIFTED = {"bn.mean": np.zeros(4, np.float32), "bn.beta": np.zeros(4, np.float32)}


def test_numbers_that_are_put_back_to_their_places_let_a_scale_through(tmp_path):
    """SegNet: the places of a MaxPool's maxima are read by a MaxUnpool; they are the same for γ > 0."""
    pooled = [node("MaxPool", "n", "p places", **WINDOW), node("MaxUnpool", "p places", "u", **WINDOW)]
    assert_all_fold(before_conv(*pooled, **UNSHIFTED), tmp_path)
    assert folded(before_conv(*pooled), tmp_path)[0]["declined"] == 1


def test_a_norm_over_all_places_lets_a_scale_through(tmp_path):
    tail = [node("GlobalLpPool", "n", "g", p=2), node("Gemm", "f d", "y")]
    nodes = [*HEAD, tail[0], node("Flatten", "g", "f"), tail[1]]
    arrays = {**ARRAYS, "d": weights(4, 5)}
    assert_all_fold(model(nodes, {**arrays, **UNSHIFTED}, X), tmp_path)
    assert folded(model(nodes, arrays, X), tmp_path)[0]["declined"] == 1


@pytest.mark.parametrize("mode", ["border", "reflection"])
def test_places_of_a_grid_let_it_through(tmp_path, mode):
    grid = np.random.default_rng(0).uniform(-1.2, 1.2, (1, 5, 5, 2)).astype(np.float32)
    nodes = [*HEAD, node("GridSample", "n grid", "s", padding_mode=mode), node("Conv", "s w", "y")]
    proto = model(nodes, {**ARRAYS, "grid": grid, "w": weights(4, 4, 2, 2)}, {"x": [1, 3, 8, 8]})
    assert_all_fold(proto, tmp_path)


def test_a_tensor_whose_gauge_lies_on_another_axis_is_no_wall(tmp_path):
    """Linear → BatchNorm1d(tokens) → transpose → Linear: the second layer takes it."""
    nodes = [node("MatMul", "x a", "h"), norm("h", "n"), node("Transpose", "n", "t", perm=[0, 2, 1])]
    arrays = {"a": weights(6, 7), "b": weights(4, 5), **norm_arrays(4)}
    assert_all_fold(model([*nodes, node("MatMul", "t b", "y")], arrays, {"x": ["N", 4, 6]}), tmp_path)


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose", "Gemm"])
def test_after_an_op_of_another_domain_weights_tell_the_rank(tmp_path, op_type):
    """Nothing infers the shape of a QuickGelu, and so of nothing after it; a Relu is before the BatchNorm."""
    gelu = helper.make_node("QuickGelu", ["x"], ["g"], domain="com.microsoft", name="gelu")
    shapes = {"Conv": [(4, 3, 3, 3), (5, 4, 1, 1)], "ConvTranspose": [(3, 4, 2, 2), (4, 5, 1, 1)]}
    first, second = shapes.get(op_type, [(6, 4), (4, 5)])
    nodes = [
        gelu,
        node(op_type, "g a", "h"),
        node("Relu", "h", "r"),
        norm("r", "n"),
        node(op_type, "n b", "y"),
    ]
    arrays = {"a": weights(*first), "b": weights(*second), **norm_arrays(4)}
    shape = ["N", 6] if op_type == "Gemm" else ["N", 3, 8, 8]
    assert_all_fold(model(nodes, arrays, {"x": shape}, extra_domain="com.microsoft"), tmp_path)


def test_branches_that_one_sum_adds_up_are_merged(tmp_path):
    """RepVGG with a Sum of three: its identity's BatchNorm becomes a part of the one Conv that is left."""
    nodes = [node("Sigmoid", "x", "q"), norm("q", "i", "a"), node("Conv", "q w3", "h3", pads=[1] * 4)]
    nodes += [norm("h3", "n3", "b"), node("Conv", "q w1", "h1"), norm("h1", "n1", "c")]
    nodes += [node("Sum", "i n3 n1", "s"), node("Sigmoid", "s", "y")]
    arrays = {"w3": weights(3, 3, 3, 3), "w1": weights(3, 3, 1, 1)}
    arrays |= {name: array for prefix in "abc" for name, array in norm_arrays(3, prefix=prefix).items()}
    assert_all_fold(model(nodes, arrays, X), tmp_path, ["Sigmoid", "Conv", "Sigmoid"])
    beside = model([*nodes, node("Neg", "n1", "z")], arrays, X, ("y", "z"))
    assert folded(beside, tmp_path)[0]["found"] == 3
