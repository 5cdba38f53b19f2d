"""A DeformConv takes a BatchNorm after it; of one before it the scale alone: outside of a picture is 0."""

import numpy as np
import pytest

from file_kit import assert_all_fold, model, node, norm, norm_arrays, weights
from gauge_kit import Net, assert_gone, assert_stays

C, OUT, SHAPE = 2, 4, ("rows", 2, 4, 4)


def deform(net: Net, x: str, *, bias: bool = True, mask: str = "", offset: str = "", group: int = 1) -> str:
    """3 by 3 taps, which fractions of a place move."""
    offset = offset or net.op("Mul", net.op("Sigmoid", net.conv("x", C, 18, 3, 3)), net.constant(1.5))
    inputs = [x, net.weight(OUT, C // group, 3, 3), offset, net.weight(OUT) if bias else "", mask]
    while not inputs[-1]:
        inputs.pop()
    return net.op("DeformConv", *inputs, kernel_shape=[3, 3], group=group)


def mask_of(net: Net) -> str:
    return net.op("Sigmoid", net.conv("x", C, 9, 3, 3))


@pytest.mark.parametrize("opset", [19, 22])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("has_mask", [True, False])
@pytest.mark.parametrize("group", [1, 2])
def test_it_takes_one_right_after_it(opset: int, bias: bool, has_mask: bool, group: int):
    net = Net(0, opset)
    y = deform(net, "x", bias=bias, mask=mask_of(net) if has_mask else "", group=group)
    result = assert_gone(net, SHAPE, net.op("Sigmoid", net.norm(y, OUT)))
    assert result.how() == f"into the weights of DeformConv '{y.removesuffix('.0')}' before it"


def test_a_channel_with_gamma_0_becomes_its_bias():
    net = Net(1, 19)
    y = net.op("Sigmoid", net.norm(deform(net, "x"), OUT))
    net.arrays["bn0.gamma"][2] = 0.0
    assert_gone(net, SHAPE, y)


@pytest.mark.parametrize("group", [1, 2])
def test_it_takes_one_through_other_ops_on_either_side(group: int):
    """After it through a pool, and without a shift before it."""
    net = Net(2, 19)
    x = net.op("AveragePool", net.norm(net.op("Sigmoid", "x"), C, shift=False), kernel_shape=[1, 1])
    y = net.op("AveragePool", deform(net, x, group=group, mask=mask_of(net)), kernel_shape=[2, 2])
    assert_gone(net, SHAPE, net.op("Sigmoid", net.norm(y, OUT)))


def test_a_shift_before_it_keeps_it():
    net = Net(3, 19)
    x = net.norm(net.op("Sigmoid", "x"), C)
    assert_stays(net, SHAPE, deform(net, x), because="the border of DeformConv")


@pytest.mark.parametrize("which", ["offset", "mask"])
def test_what_moves_the_taps_stays_as_it_is(which: str):
    net = Net(4, 19)
    made = net.norm(net.op("Sigmoid", net.conv("x", C, 18, 3, 3)), 18, shift=False)
    made = made if which == "offset" else net.slice(made, [0], [9], [1])
    y = deform(net, "x", **{which: made})
    assert_stays(net, SHAPE, y, because="the offsets and mask of DeformConv")


def test_computed_weights_keep_it():
    net = Net(5, 19)
    offset = net.conv("x", C, 18, 3, 3)
    weight = net.op(
        "Sigmoid", net.op("Expand", net.op("ReduceMean", "x"), net.constant(np.array([OUT, C, 3, 3])))
    )
    y = net.op("DeformConv", "x", weight, offset, kernel_shape=[3, 3])
    assert_stays(net, SHAPE, net.op("Sigmoid", net.norm(y, OUT)), because="computed at run time")


def test_weights_that_two_share_are_copied():
    net = Net(6, 19)
    offset = net.op("Sigmoid", net.conv("x", C, 18, 3, 3))
    weight, bias = net.weight(OUT, C, 3, 3), net.weight(OUT)
    one, other = (net.op("DeformConv", "x", weight, offset, bias, kernel_shape=[3, 3]) for _ in range(2))
    assert_gone(net, SHAPE, net.op("Sigmoid", net.norm(one, OUT)), net.op("Sigmoid", other))


def test_a_file_is_proved(tmp_path):
    arrays = {"o": weights(18, 3, 3, 3), "w": weights(4, 3, 3, 3), **norm_arrays(4)}
    nodes = [
        node("Conv", "x o", "f"),
        node("DeformConv", "x w f", "h", kernel_shape=[3, 3]),
        norm("h", "n"),
        node("Sigmoid", "n", "y"),
    ]
    proto = model(nodes, arrays, {"x": ["N", 3, 6, 6]}, opset=19)
    assert_all_fold(proto, tmp_path, ["Conv", "DeformConv", "Sigmoid"])
