"""Folds that are wrong, and often shipped: each done by hand, and wrong; ours is exact, or declined."""

import numpy as np
import onnx_ir as ir
import pytest

from export.graph.prepare import prepare
from gauge_kit import EPSILON, Net, answers, assert_gone, assert_stays, folded

WRONG = 1e-3
C, SHAPE = 4, ("rows", 4, 6, 6)
SEEDS = pytest.mark.parametrize("seed", range(3))


def affine(net: Net, name: str = "bn0") -> tuple[np.ndarray, np.ndarray]:
    gamma, beta, mean, variance = (net.arrays[f"{name}.{key}"] for key in ("gamma", "beta", "mean", "var"))
    scale = gamma / np.sqrt(variance + EPSILON)
    return scale, beta - mean * scale


def fold_by_hand(net: Net, *, without: str = "bn0", **arrays: np.ndarray) -> Net:
    """The net without a BatchNorm, and with other weights."""
    naive = Net(net.seed, net.opset, arrays=net.arrays | arrays)
    (norm,) = [node for node in net.nodes if node.name == without]
    for node in net.nodes:
        if node is not norm:
            copy = type(node)()
            copy.CopyFrom(node)
            copy.input[:] = [norm.input[0] if name == norm.output[0] else name for name in node.input]
            naive.nodes.append(copy)
    return naive


def assert_wrong(net: Net, naive: Net, shape: tuple[int | str, ...], y: str, naive_y: str = "") -> None:
    rows = np.random.default_rng(7).normal(size=[2, *shape[1:]])
    (right,), (wrong,) = (
        answers(prepare(ir.from_proto(each.model(shape, name))), rows)
        for each, name in ((net, y), (naive, naive_y or y))
    )
    assert np.abs(right - wrong).max() / np.abs(right).max() > WRONG


def backward(weight: np.ndarray, bias: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> list[np.ndarray]:
    return [weight * scale.reshape(-1, 1, 1, 1), bias * scale + shift]


def forward(weight: np.ndarray, bias: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> list[np.ndarray]:
    """As if no padding were summed."""
    return [weight * scale.reshape(1, -1, 1, 1), bias + np.einsum("oihw,i->o", weight, shift)]


@SEEDS
def test_conv_relu_batchnorm_is_not_folded_backward(seed):
    net = Net(seed)
    y = net.norm(net.op("Relu", net.conv("x", C, C)), C, positive=True)
    weight, bias = backward(net.arrays["k0"], net.arrays["k1"], *affine(net))
    naive = fold_by_hand(net, k0=weight, k1=bias)
    assert_wrong(net, naive, SHAPE, y, naive_y=net.nodes[1].output[0])
    assert_stays(net, SHAPE, y, because="the cut at 0 of Relu 'relu1' allows no shift")


@SEEDS
def test_batchnorm_before_a_padded_conv_keeps_its_border(seed):
    net = Net(seed)
    y = net.conv(net.norm("x", C), C, 3, 3, 3, pads=[1] * 4)
    weight, bias = forward(net.arrays["k4"], net.arrays["k5"], *affine(net))
    assert_wrong(net, fold_by_hand(net, k4=weight, k5=bias), SHAPE, y)
    assert_stays(net, SHAPE, y, because="the zero padding of Conv 'conv1' allows no shift")


@SEEDS
def test_a_conv_transpose_keeps_its_border(seed):
    net = Net(seed)
    weight, bias = net.weight(C, 3, 3, 3), net.weight(3)
    y = net.op("ConvTranspose", net.norm("x", C), weight, bias)
    scale, shift = affine(net)
    new = net.arrays[weight] * scale.reshape(-1, 1, 1, 1)
    sums = np.einsum("iohw,i->o", net.arrays[weight], shift)
    naive = fold_by_hand(net, **{weight: new, bias: net.arrays[bias] + sums})
    assert_wrong(net, naive, SHAPE, y)
    assert_stays(net, SHAPE, y, because="the border of ConvTranspose 'convtranspose1' allows no shift")


@SEEDS
def test_conv_maxpool_batchnorm_is_not_folded_with_negative_gamma(seed):
    net = Net(seed)
    y = net.norm(net.op("MaxPool", net.conv("x", C, C), kernel_shape=[2, 2]), C)
    weight, bias = backward(net.arrays["k0"], net.arrays["k1"], *affine(net))
    naive = fold_by_hand(net, k0=weight, k1=bias)
    assert_wrong(net, naive, SHAPE, y, naive_y=net.nodes[1].output[0])
    assert_stays(net, SHAPE, y, because="MaxPool 'maxpool1' allows no change of sign")


@SEEDS
def test_batchnorm_maxpool_conv_is_not_folded_with_negative_gamma(seed):
    net = Net(seed)
    y = net.conv(net.op("MaxPool", net.norm("x", C), kernel_shape=[2, 2]), C, 3)
    weight, bias = forward(net.arrays["k4"], net.arrays["k5"], *affine(net))
    assert_wrong(net, fold_by_hand(net, k4=weight, k5=bias), SHAPE, y)
    assert_stays(net, SHAPE, y, because="MaxPool 'maxpool1' allows no change of sign")


@SEEDS
def test_linear_batchnorm_on_sequences_scales_another_axis(seed):
    """(N, C, L) with L = C features: the shapes fit, the axes do not."""
    net = Net(seed)
    y = net.norm(net.op("MatMul", "x", net.weight(5, C)), C)
    scale, shift = affine(net)
    naive = fold_by_hand(net, k0=net.arrays["k0"] * scale)
    assert_wrong(net, naive, ("rows", C, 5), y, naive_y=naive.op("Add", "matmul0.0", naive.constant(shift)))
    assert_stays(net, ["rows", C, 5], y, because="features on axis 2, the BatchNorm scales axis 1")


@SEEDS
@pytest.mark.parametrize("seen", ["by a Relu", "as an output"])
def test_a_conv_with_another_reader_is_not_changed_for_it(seen, seed):
    net = Net(seed)
    x = net.conv("x", C, C)
    normal = net.norm(x, C)
    y = net.op("Add", normal, net.op("Relu", x)) if seen == "by a Relu" else normal
    weight, bias = backward(net.arrays["k0"], net.arrays["k1"], *affine(net))
    naive = fold_by_hand(net, k0=weight, k1=bias)
    assert_wrong(net, naive, SHAPE, y if seen == "by a Relu" else x)
    folded(net, SHAPE, y, *([] if seen == "by a Relu" else [x]))
    net.nodes = net.nodes[:2]
    assert_stays(net, SHAPE, normal, x, because="the graph's output")


@SEEDS
def test_a_weight_shared_by_two_batchnorms_is_folded_for_each(seed):
    net = Net(seed)
    weight, bias = net.weight(C, C, 3, 3), net.weight(C)
    first, second = (net.norm(net.op("Conv", "x", weight, bias), C) for _ in range(2))
    y = net.op("Add", net.op("Sigmoid", first), net.op("Sigmoid", second))
    arrays = [net.arrays[weight], net.arrays[bias]]
    for name in ("bn0", "bn1"):
        arrays = backward(*arrays, *affine(net, name))
    naive = fold_by_hand(net, **dict(zip((weight, bias), arrays, strict=True)))
    assert_wrong(net, fold_by_hand(naive, without="bn1"), SHAPE, y)
    assert_gone(net, SHAPE, y)


@SEEDS
def test_matmul_transpose_batchnorm_follows_the_axis(seed):
    """Rows as long as features: the shift would fit on either axis."""
    net = Net(seed)
    product = net.op("MatMul", "x", net.weight(5, C))
    y = net.norm(net.op("Transpose", product, perm=[0, 2, 1]), C)
    scale, shift = affine(net)
    naive = fold_by_hand(net, k0=net.arrays["k0"] * scale)
    naive_y = naive.op("Add", net.nodes[1].output[0], naive.constant(shift))
    assert_wrong(net, naive, ("rows", C, 5), y, naive_y=naive_y)
    assert_gone(net, ["rows", C, 5], y)


@SEEDS
def test_matmul_reshape_batchnorm_follows_the_axis(seed):
    """(rows, 3, 4) → (rows, 4, 3): channels cut across features, so nothing can be folded."""
    net = Net(seed)
    y = net.norm(net.reshape(net.op("MatMul", "x", net.weight(5, C)), 0, C, 3), C)
    scale, shift = affine(net)
    naive = fold_by_hand(net, k0=net.arrays["k0"] * scale)
    naive_y = naive.op("Add", net.nodes[1].output[0], naive.constant(shift.reshape(C, 1)))
    assert_wrong(net, naive, ("rows", 3, 5), y, naive_y=naive_y)
    assert_stays(
        net, ["rows", 3, 5], y, because="BatchNormalization 'bn0' needs one scale and shift for each"
    )


@SEEDS
def test_average_with_zeros_and_zero_pads_keep_their_borders(seed):
    for pooled in (True, False):
        net = Net(seed)
        x = net.norm("x", C)
        if pooled:
            x = net.op("AveragePool", x, kernel_shape=[2, 2], pads=[1] * 4, count_include_pad=1)
        else:
            x = net.pad(x, [0, 0, 1, 1, 0, 0, 1, 1])
        y = net.conv(x, C, 3)
        weight, bias = (name for name in net.nodes[-1].input[1:])
        new = forward(net.arrays[weight], net.arrays[bias], *affine(net))
        naive = fold_by_hand(net, **dict(zip((weight, bias), new, strict=True)))
        assert_wrong(net, naive, SHAPE, y)
        assert_stays(net, SHAPE, y, because="its shift cannot be absorbed")


@SEEDS
def test_training_mode_is_not_folded(seed):
    """Its statistics are those of the batch."""
    net = Net(seed)
    y = net.norm(net.conv("x", C, C), C, training_mode=1)
    weight, bias = backward(net.arrays["k0"], net.arrays["k1"], *affine(net))
    naive = fold_by_hand(net, k0=weight, k1=bias)
    assert_wrong(net, naive, SHAPE, y, naive_y=net.nodes[0].output[0])
    assert_stays(net, SHAPE, y, because="training_mode = 1")
