"""A Mul and an Add by a constant for each channel take a BatchNorm, whatever stands before them."""

import numpy as np
import pytest

from gauge_kit import Net, assert_gone, assert_stays, folded

C, SHAPE = 4, ("rows", 3, 6, 6)
CHANNEL, MAP, COLUMN = (C, 1, 1), (C, 6, 6), (6,)


def sigmoid(net: Net) -> str:
    """An op without a rule after a Conv: what follows cannot go into the Conv."""
    return net.op("Sigmoid", net.conv("x", 3, C))


def affine(net: Net, x: str, *shape: int) -> str:
    return net.op("Add", net.op("Mul", x, net.factor(*shape)), net.weight(*shape))


@pytest.mark.parametrize("scale", ["Mul", "Div"])
@pytest.mark.parametrize("shift", ["Add", "Sub"])
@pytest.mark.parametrize("shape", [CHANNEL, (1, *CHANNEL), MAP])
def test_a_scale_and_a_shift_take_it(scale: str, shift: str, shape: tuple[int, ...]):
    net = Net(0)
    scaled = net.op(scale, sigmoid(net), net.factor(*shape))
    y = net.op("Sigmoid", net.norm(net.op(shift, scaled, net.weight(*shape)), C))
    result = assert_gone(net, SHAPE, y)
    assert result.ops == ["Conv", "Sigmoid", scale, shift, "Sigmoid"]
    assert result.how().endswith(f"into {shift} '{shift.lower()}3', {scale} '{scale.lower()}2' before it")


def test_the_constant_may_come_first_and_the_shift_before_the_scale():
    net = Net(1)
    shifted = net.op("Add", net.weight(*CHANNEL), sigmoid(net))
    y = net.op("Sigmoid", net.norm(net.op("Mul", net.factor(*CHANNEL), shifted), C))
    assert_gone(net, SHAPE, y)


def test_what_the_net_reads_is_scaled_too():
    net = Net(2)
    y = net.op("Sigmoid", net.norm(affine(net, "x", 3, 1, 1), 3))
    assert assert_gone(net, SHAPE, y).ops == ["Mul", "Add", "Sigmoid"]


def test_features_last_and_channels_moved_to_the_front():
    """The end of a LayerNorm over features, as torch writes it out, then a BatchNorm over channels."""
    net = Net(3)
    normal = net.op("Sigmoid", net.op("MatMul", "x", net.weight(5, C)))
    y = net.norm(net.op("Transpose", affine(net, normal, C), perm=[0, 2, 1]), C)
    assert assert_gone(net, ("rows", 7, 5), net.op("Sigmoid", y)).ops[-2:] == ["Transpose", "Sigmoid"]


def test_a_groupnorm_written_out():
    net = Net(4)
    groups = net.reshape("x", 0, 2, -1)
    normal = net.op("InstanceNormalization", groups, net.constant(np.ones(2)), net.constant(np.zeros(2)))
    y = net.norm(affine(net, net.reshape(normal, 0, C, 6, 6), *CHANNEL), C)
    assert_gone(net, ("rows", C, 6, 6), net.op("Sigmoid", y))


def test_a_shift_alone_takes_the_shift_and_a_conv_the_scale():
    net = Net(5)
    shifted = net.op("Add", sigmoid(net), net.weight(*CHANNEL))
    result = assert_gone(net, SHAPE, net.conv(net.norm(shifted, C), C, 2, 3, 3, pads=[1] * 4))
    assert result.ops == ["Conv", "Sigmoid", "Add", "Conv"]


@pytest.mark.parametrize("kind", ["Mul", "Div"])
@pytest.mark.parametrize("shape", [CHANNEL, MAP])
def test_a_scale_alone_takes_a_shift_by_an_add(kind: str, shape: tuple[int, ...]):
    net = Net(6)
    y = net.op("Sigmoid", net.norm(net.op(kind, sigmoid(net), net.factor(*shape)), C))
    assert_stays(net, SHAPE, y, because="its shift cannot be absorbed", prices=frozenset())
    result = assert_gone(net, SHAPE, y)
    assert result.ops == ["Conv", "Sigmoid", kind, "Add", "Sigmoid"]
    assert result.fates["bn0"].status == "reduced"


def test_a_scale_after_it_takes_it_and_its_shift_by_an_add():
    net = Net(6)
    y = net.op("Sigmoid", net.op("Mul", net.norm(sigmoid(net), C), net.factor(*CHANNEL)))
    assert assert_gone(net, SHAPE, y).ops == ["Conv", "Sigmoid", "Mul", "Add", "Sigmoid"]


def test_no_add_for_each_of_several_scales():
    """One BatchNorm costs less than two Adds."""
    net = Net(6)
    x = net.norm(sigmoid(net), C)
    scaled = [net.op("Sigmoid", net.op("Mul", x, net.factor(*CHANNEL))) for _ in range(2)]
    assert_stays(net, SHAPE, *scaled, because="its shift cannot be absorbed")


def test_a_square_takes_no_scale():
    net = Net(6)
    x = net.conv("x", 3, C)
    assert_stays(net, SHAPE, net.norm(net.op("Mul", x, x), C), because="cannot be absorbed")


def test_of_two_branches_the_one_that_can_takes_the_scale():
    """A Sigmoid's numbers stay as they are, whichever of the two comes first."""
    for swap in (False, True):
        net = Net(6)
        branches = [net.conv("x", 3, C), net.op("Abs", net.op("Sin", net.conv("x", 3, C)))]
        product = net.op("Mul", *(reversed(branches) if swap else branches))
        result = assert_gone(net, SHAPE, net.op("Sigmoid", net.norm(product, C)))
        assert result.ops.count("Add") == 1
        assert result.how().startswith("into Conv 'conv0'")


def test_one_number_does_not_take_a_scale_for_each_channel():
    net = Net(7)
    shifted = net.op("Add", net.op("Mul", sigmoid(net), net.factor()), net.weight(*CHANNEL))
    assert_stays(net, SHAPE, net.op("Sigmoid", net.norm(shifted, C)), because="γ cannot be absorbed")


def test_numbers_along_another_axis_do_not_take_it():
    net = Net(8)
    y = net.op("Sigmoid", net.norm(affine(net, sigmoid(net), *COLUMN), C))
    assert_stays(net, SHAPE, y, because="cannot be absorbed")


@pytest.mark.parametrize("place", [2, 3])
def test_another_reader_keeps_it(place: int):
    """Of the Mul's output, or of the Add's."""
    net = Net(9)
    y = net.op("Sigmoid", net.norm(affine(net, sigmoid(net), *CHANNEL), C))
    other = net.op("Sigmoid", net.nodes[place].output[0])
    assert_stays(net, SHAPE, y, other, because="cannot be absorbed")


def test_a_constant_that_two_ops_share_is_copied():
    net = Net(10)
    factor, shift = net.factor(*CHANNEL), net.weight(*CHANNEL)
    one = net.op("Add", net.op("Mul", sigmoid(net), factor), shift)
    other = net.op("Add", net.op("Mul", net.op("Tanh", net.conv("x", 3, C)), factor), shift)
    assert_gone(net, SHAPE, net.op("Sigmoid", net.norm(one, C)), net.op("Sigmoid", other))


def test_integers_stay_integers():
    """A factor of integers holds no scale; the Cast after it is where a BatchNorm's numbers begin."""
    net = Net(11)
    whole = net.op("Cast", sigmoid(net), to=7)
    whole = net.op("Mul", whole, net.constant(np.array([2, 3, 5, 7]).reshape(CHANNEL)))
    whole = net.op("Add", whole, net.constant(np.array([1, 2, 3, 4]).reshape(CHANNEL)))
    y = net.op("Sigmoid", net.norm(net.op("Cast", whole, to=11), C))
    assert_stays(net, SHAPE, y, because="cannot absorb a scale or shift")


@pytest.mark.parametrize("kind", ["Mul", "Add"])
def test_one_channel_becomes_several(kind: str):
    """(N, 1, H, W) beside (C, 1, 1): what comes out has a scale for each channel where the constant has."""
    net = Net(12)
    wide = net.op(kind, net.op("Sigmoid", net.conv("x", 3, 1)), net.factor(*CHANNEL))
    y = net.op("Sigmoid", net.norm(affine(net, wide, *CHANNEL), C))
    assert folded(net, SHAPE, y).gone() == {"bn0"}


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("third", [False, True])
def test_a_product_of_two_factors_folds_in_either_order(second, third):
    """A cross network: x₁ = BN(x₀ · w₀(x₀) + x₀), x₂ = x₀ · w₁(x₁) + x₁; only w may take the scale of x₁."""
    net = Net(0)

    def times(one: str, other: str, swap: bool) -> str:
        return net.op("Mul", *((other, one) if swap else (one, other)))

    first = net.op("Relu", net.gemm("x", 3, C))
    crossed = net.norm(net.op("Add", times(first, net.gemm(first, C, C), second), first), C)
    crossed = net.op("Add", times(first, net.gemm(crossed, C, C), third), crossed)
    result = folded(net, (2, 3), net.op("Sigmoid", net.gemm(crossed, C, 2)))
    assert result.gone() == {"bn0"}, result.how()
