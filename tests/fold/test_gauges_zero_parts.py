"""Zeros beside a tensor have any scale: a Concat with them asks for b = 0 at most."""

import numpy as np
import pytest
from onnx import numpy_helper

from gauge_kit import Net, assert_gone, assert_stays

C, SHAPE = 4, ("rows", 4, 6)


def computed(net: Net, *sizes: int) -> str:
    """The shape (rows, *sizes), as a net computes it."""
    rows = net.op("Slice", net.op("Shape", "x"), *(net.constant(np.array([end])) for end in (0, 1)))
    return net.op("Concat", rows, net.constant(np.array(sizes)), axis=0)


def filled(net: Net, number: float, *sizes: int) -> str:
    tensor = numpy_helper.from_array(np.array([float(number)]))
    return net.op("ConstantOfShape", computed(net, *sizes), value=tensor)


ZEROS = {
    "a constant": lambda net, *sizes: net.constant(np.zeros((2, *sizes))),
    "of a computed shape": lambda net, *sizes: filled(net, 0, *sizes),
    "expanded": lambda net, *sizes: net.op(
        "Expand", net.constant(np.zeros((1, 1, 1))), computed(net, *sizes)
    ),
    "cast": lambda net, *sizes: net.op("Cast", net.op("ConstantOfShape", computed(net, *sizes)), to=11),
}
OTHERS = {
    "a constant": lambda net, *sizes: net.weight(2, *sizes),
    "of a computed shape": lambda net, *sizes: filled(net, 1, *sizes),
    "expanded": lambda net, *sizes: net.op("Expand", net.weight(1, 1, 1), computed(net, *sizes)),
    "a size": lambda net, *sizes: net.op("Expand", net.op("ReduceMax", "x"), computed(net, *sizes)),
}


def shape_for(kind: str) -> tuple[int | str, ...]:
    """Open rows where they are computed, or else they would be constant."""
    return (2 if kind == "a constant" else "rows", *SHAPE[1:])


def joined(net: Net, x: str, part: str, axis: int, *, first: bool = False) -> str:
    return net.op("Concat", *([part, x] if first else [x, part]), axis=axis)


@pytest.mark.parametrize("kind", ZEROS)
@pytest.mark.parametrize("first", [True, False])
def test_along_another_axis_they_have_the_scale_of_what_they_stand_beside(kind, first):
    net = Net(0)
    y = joined(net, net.norm("x", C, shift=False), ZEROS[kind](net, C, 2), 2, first=first)
    assert_gone(net, shape_for(kind), net.conv(y, C, 3, 1))


@pytest.mark.parametrize("kind", ZEROS)
def test_they_take_no_shift(kind):
    net = Net(1)
    y = joined(net, net.norm("x", C), ZEROS[kind](net, C, 2), 2)
    assert_stays(net, shape_for(kind), net.conv(y, C, 3, 1), because="the zero part of Concat")


@pytest.mark.parametrize("kind", OTHERS)
def test_other_numbers_have_no_scale(kind):
    net = Net(2)
    y = joined(net, net.norm("x", C, shift=False), OTHERS[kind](net, C, 2), 2)
    assert_stays(net, shape_for(kind), net.conv(y, C, 3, 1), because="needs the same scale and shift")


@pytest.mark.parametrize("kind", ZEROS)
@pytest.mark.parametrize("first", [True, False])
def test_along_the_channels_each_is_a_channel_of_its_own(kind, first):
    """What a BatchNorm after it makes of zeros goes into the bias of the Conv after that."""
    net = Net(3)
    y = joined(net, net.conv("x", C, C, 1), ZEROS[kind](net, 3, 6), 1, first=first)
    y = net.conv(net.norm(net.op("Relu", y), 7, positive=True), 7, 3, 1)
    assert_gone(net, shape_for(kind), y)


@pytest.mark.parametrize("kind", ZEROS)
def test_of_zeros_a_batchnorm_makes_its_shift(kind):
    """Which nothing after it takes."""
    net = Net(4)
    y = joined(net, net.conv("x", C, C, 1), ZEROS[kind](net, 3, 6), 1)
    y = net.op("Sigmoid", net.norm(y, 7))
    assert_stays(net, shape_for(kind), y, because="the zero part of Concat")


def test_zeros_and_two_branches_are_tied_as_two_branches_are():
    net = Net(5)
    x = net.norm("x", C, shift=False)
    y = net.op("Concat", x, filled(net, 0, C, 2), net.op("Sigmoid", net.conv("x", C, C, 1)), axis=2)
    assert_stays(net, SHAPE, net.conv(y, C, 3, 1), because="needs the same scale and shift")


def test_beside_what_has_no_scale_they_have_none():
    """So that factors of channels after them take one for each channel."""
    net = Net(6)
    y = joined(net, net.op("Sigmoid", net.conv("x", C, C, 1)), filled(net, 0, C, 2), 2)
    y = net.op("Add", net.op("Mul", y, net.factor(C, 1)), net.weight(C, 1))
    assert_gone(net, SHAPE, net.op("Sigmoid", net.norm(y, C)))
