"""A product with a Softmax passes a shift on only where the Softmax sums up to 1 along what is summed up."""

import pytest

from attention_kit import FEATURES, PLACES, SHAPE, before, features, normed, scores, softmax, turned
from gauge_kit import Net, assert_gone, assert_stays


@pytest.mark.parametrize(
    ("opset", "axis", "goes"),
    [(11, 2, True), (11, 1, False), (18, 1, False), (18, 2, True), (11, None, False)],
)
def test_the_softmax_must_be_along_the_axis_that_is_summed_up(opset, axis, goes):
    """Before opset 13 one along axis 1 is along all axes from there on, and 1 is the default."""
    net = Net(0, opset)
    y = before(net, scores(net) if axis is None else softmax(net, axis))
    if goes:
        assert_gone(net, SHAPE, y)
    else:
        assert_stays(net, SHAPE, y, because="its shift cannot be absorbed")


@pytest.mark.parametrize("opset", [11, 18])
def test_a_softmax_along_another_axis_that_is_turned_is_along_it(opset):
    """Along axis 1, and so along the places only from opset 13 on."""
    net = Net(0, opset)
    y = before(net, turned(net, softmax(net, 1)))
    if opset == 18:
        assert_gone(net, SHAPE, y)
    else:
        assert_stays(net, SHAPE, y, because="its shift cannot be absorbed")
    net = Net(0, 18)
    assert_stays(
        net, SHAPE, before(net, turned(net, softmax(net, 2))), because="its shift cannot be absorbed"
    )


@pytest.mark.parametrize(
    ("shapes", "axis", "goes"),
    [
        ([(2, PLACES, 1, PLACES), (2, PLACES, PLACES)], -1, True),
        ([(2, 1, PLACES, PLACES), (1, 2, 1, PLACES, PLACES), (2, PLACES, PLACES)], -1, True),
        ([(PLACES, 2, PLACES), (2, PLACES, PLACES)], -1, True),
        ([(2, 1, PLACES * PLACES), (2, PLACES, PLACES)], -1, False),
        ([(2, PLACES, 1, PLACES), (2, PLACES, PLACES)], 1, False),
    ],
)
def test_a_softmax_that_is_reshaped(shapes, axis, goes):
    net = Net(0)
    weights = net.op("Softmax", net.reshape(net.op("MatMul", "x", turned(net, "x")), *shapes[0]), axis=axis)
    for shape in shapes[1:]:
        weights = net.reshape(weights, *shape)
    y = before(net, weights)
    if goes:
        assert_gone(net, SHAPE, y)
    else:
        assert_stays(net, SHAPE, y, because="its shift cannot be absorbed")


@pytest.mark.parametrize("goes", [True, False])
def test_a_softmax_whose_first_axes_are_kept(goes):
    """Along axis 1 of (2, 5, 5), and what is after that axis split up; or along the last, which is split."""
    net = Net(0)
    weights = net.op("Softmax", net.op("MatMul", turned(net, "x"), "x"), axis=1 if goes else 2)
    weights = net.reshape(weights, 2, 4, 2, 2)
    values = normed(net, net.op("Sigmoid", features(net, turned(net, "x"), inputs=PLACES)))
    y = net.op("Einsum", weights, values, equation="njab,njd->nabd")
    y = features(net, y, inputs=FEATURES, count=3)
    if goes:
        assert_gone(net, SHAPE, net.op("Sigmoid", y))
    else:
        assert_stays(net, SHAPE, net.op("Sigmoid", y), because="its shift cannot be absorbed")


def test_a_softmax_along_one_of_two_axes_that_are_summed_up_sums_up_to_more():
    net = Net(0)
    values = net.unsqueeze(normed(net, net.op("Sigmoid", features(net))), 2)
    y = net.op("Einsum", softmax(net, 1), values, equation="njk,njkd->nd")
    y = net.op("Sigmoid", features(net, y, inputs=FEATURES, count=3))
    assert_stays(net, SHAPE, y, because="its shift cannot be absorbed")
