"""A Reshape's target that is computed from shapes, with a −1 beside: the sizes tell what that is."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.graph.edit import constant
from export.graph.prepare import prepare
from gauge_kit import EXACT, Net, assert_gone, difference, folded

SHAPE = ("rows", 5, 4)
Target = Callable[[Net], str]


def size(net: Net, x: str, axis: int) -> str:
    """One size of x, a single number."""
    return net.op("Gather", net.op("Shape", x), net.constant(np.array(axis)))


def number(net: Net, value: int) -> str:
    return net.constant(np.array(value))


def joined(net: Net, *parts: str | int) -> str:
    """A vector of single numbers."""
    vectors = [
        net.constant(np.array([part])) if isinstance(part, int) else net.unsqueeze(part, 0) for part in parts
    ]
    return net.op("Concat", *vectors, axis=0)


def target_of(net: Net, shape: tuple[int | str, ...], output: str) -> list[int] | None:
    """What the last Reshape's target became; None where it is still computed."""
    model = prepare(ir.from_proto(net.model(shape, output)))
    reshape = [node for node in model.graph if node.op_type == "Reshape"][-1]
    found = constant(reshape.inputs[1])
    return None if found is None else found.tolist()


TOLD: dict[str, tuple[tuple[int | str, ...], Target, list[int]]] = {
    "a product": (
        SHAPE,
        lambda net: joined(net, net.op("Mul", size(net, "x", 0), number(net, 5)), -1),
        [-1, 4],
    ),
    "of two open sizes": (
        ("rows", "t", 4),
        lambda net: joined(net, net.op("Mul", size(net, "x", 0), size(net, "x", 1)), -1),
        [-1, 4],
    ),
    "by a Reshape to one axis": (
        SHAPE,
        lambda net: net.op(
            "Concat",
            net.reshape(net.op("Mul", size(net, "x", 0), number(net, 5)), -1),
            net.constant(np.array([-1])),
            axis=0,
        ),
        [-1, 4],
    ),
    "the size that is left has a name": (
        ("rows", "t", 4),
        lambda net: joined(net, net.op("Mul", size(net, "x", 0), number(net, 4)), -1),
        [-1, 0],
    ),
    "a 0 that stands for the rows": (
        ("rows", "t", 6, 4),
        lambda net: joined(net, 0, net.op("Mul", size(net, "x", 1), number(net, 6)), -1),
        [0, -1, 4],
    ),
    "a sum of numbers": (
        SHAPE,
        lambda net: joined(
            net,
            net.op("Mul", size(net, "x", 0), number(net, 5)),
            net.op("Add", size(net, "x", 2), number(net, 0)),
        ),
        [-1, 4],
    ),
    "a difference of numbers": (
        SHAPE,
        lambda net: joined(
            net,
            net.op("Mul", size(net, "x", 0), number(net, 10)),
            net.op("Sub", size(net, "x", 2), number(net, 2)),
        ),
        [-1, 2],
    ),
    "a quotient of numbers": (
        SHAPE,
        lambda net: joined(net, size(net, "x", 0), -1, net.op("Div", size(net, "x", 2), number(net, 2))),
        [0, -1, 2],
    ),
}


@pytest.mark.parametrize("case", TOLD.values(), ids=TOLD)
def test_the_last_size_is_told_by_the_others(case):
    shape, build, expected = case
    net = Net(0, 13)
    assert target_of(net, shape, net.op("Reshape", "x", build(net))) == expected


NOT_TOLD: dict[str, tuple[tuple[int | str, ...], Target]] = {
    "a product that leaves a rest": (
        SHAPE,
        lambda net: joined(net, net.op("Mul", size(net, "x", 0), number(net, 3)), -1),
    ),
    "a size that the tensor does not have": (
        ("rows", "t", 1),
        lambda net: joined(net, net.op("Mul", size(net, "x", 0), size(net, "x", 0)), -1),
    ),
    "a product is left": (
        ("rows", "t", "u", 4),
        lambda net: joined(net, net.op("Mul", size(net, "x", 0), number(net, 2)), -1),
    ),
    "a quotient that may leave a rest": (
        SHAPE,
        lambda net: joined(net, net.op("Div", size(net, "x", 0), number(net, 5)), -1),
    ),
    "a sum with an open size": (
        SHAPE,
        lambda net: joined(net, net.op("Add", size(net, "x", 0), number(net, 0)), -1),
    ),
    "all sizes times one number": (
        SHAPE,
        lambda net: net.op("Mul", net.op("Shape", "x"), number(net, 1)),
    ),
    "a size that is nothing": (
        ("rows", 0, 4),
        lambda net: joined(net, net.op("Mul", size(net, "x", 0), number(net, 4)), -1),
    ),
}


@pytest.mark.parametrize("case", NOT_TOLD.values(), ids=NOT_TOLD)
def test_else_it_stays_computed(case):
    shape, build = case
    net = Net(0, 13)
    assert target_of(net, shape, net.op("Reshape", "x", build(net))) is None


def test_a_tensor_of_unknown_rank_tells_nothing():
    net = Net(0, 13)
    flat = net.op("Reshape", "x", net.op("Cast", net.op("Compress", "x", "picked"), to=7))
    net.arrays["picked"] = np.array([True])
    target = joined(net, 0, net.op("Mul", size(net, "x", 0), number(net, 5)), -1)
    assert target_of(net, SHAPE, net.op("Reshape", flat, target)) is None


def flattened(net: Net, x: str) -> str:
    """(rows · 5, …), as `x.view(b * t, -1)`."""
    return net.op("Reshape", x, joined(net, net.op("Mul", size(net, "x", 0), number(net, 5)), -1))


def test_a_batchnorm_of_each_time_folds_across_it():
    net = Net(0, 13)
    made = net.op("Add", net.op("MatMul", "x", net.weight(4, 3)), net.weight(3))
    assert_gone(net, SHAPE, net.op("Sigmoid", net.norm(flattened(net, made), 3)))


@pytest.mark.parametrize("by", ["its size", "a quotient"])
def test_and_across_the_way_back(by):
    """(rows · 5, 3) becomes (rows, 5, −1): the product that the first axis is cancels."""
    net = Net(0, 13)
    flat = net.gemm(flattened(net, "x"), 4, 3)
    rows = size(net, "x", 0) if by == "its size" else net.op("Div", size(net, flat, 0), number(net, 5))
    back = net.op("Reshape", flat, joined(net, rows, 5, -1))
    y = net.norm(net.op("Transpose", back, perm=[0, 2, 1]), 3)
    assert_gone(net, SHAPE, net.op("Sigmoid", y))


PICTURE = ("rows", 5, 4, 6)


def places(net: Net, x: str, axis: int) -> str:
    """Each two neighbours along an axis: (2, size − 1)."""
    ends = net.op("Sub", size(net, x, axis), number(net, 1))
    first = net.op("Range", number(net, 0), ends, number(net, 1))
    return net.op("Add", net.unsqueeze(first, 0), net.constant(np.array([[0], [1]])))


def unfolded(net: Net, x: str) -> str:
    """Patches of 2×2, (rows, 5 · 4, −1), as torch's exporter writes an unfold."""
    high, wide = places(net, x, 2), places(net, x, 3)
    patches = net.op("Gather", net.op("Gather", x, high, axis=2), wide, axis=4)
    channels = net.op("Mul", size(net, x, 1), number(net, 4))
    target = joined(net, size(net, x, 0), channels, -1)
    return net.op("Reshape", net.op("Transpose", patches, perm=[0, 1, 2, 4, 3, 5]), target)


def test_the_places_of_an_unfold_are_numbers_where_the_sizes_are():
    net = Net(0, 13)
    y = unfolded(net, net.norm(net.op("Abs", "x"), 5))
    result = assert_gone(net, PICTURE, net.conv(y, 20, 3, 1))
    assert result.ops == ["Abs", "Gather", "Gather", "Transpose", "Reshape", "Conv"]


def test_numbers_keep_their_type_and_their_axes():
    net = Net(0, 13)
    last = net.op("Cast", size(net, "x", 2), to=onnx.TensorProto.DOUBLE)
    square = net.unsqueeze(net.op("Sub", size(net, "x", 2), number(net, 1)), 0, 1)
    made = net.op("Div", net.op("Gather", "x", square, axis=2), last)
    model = ir.from_proto(net.model(SHAPE, made))
    prepared = prepare(model)
    assert [node.op_type for node in prepared.graph] == ["Gather", "Div"]
    assert difference(model, prepared, net.random.normal(size=(2, 5, 4))) < EXACT


def test_where_it_is_open_they_stay_computed():
    net = Net(0, 13)
    y = unfolded(net, net.norm(net.op("Abs", "x"), 5))
    assert "Range" in folded(net, ("rows", 5, "h", 6), net.conv(y, 20, 3, 1)).ops


def test_what_is_not_told_holds_the_batchnorm():
    net = Net(0, 13)
    made = net.op("MatMul", "x", net.weight(4, 3))
    rows = net.op("Add", size(net, "x", 0), number(net, 0))
    flat = net.op("Reshape", made, joined(net, net.op("Mul", rows, number(net, 5)), -1))
    assert not folded(net, SHAPE, net.op("Sigmoid", net.norm(flat, 3))).gone()
