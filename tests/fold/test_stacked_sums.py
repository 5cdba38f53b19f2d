"""Branches that are stacked and then summed, as `torch.stack([a, b]).sum(0)` writes a sum."""

from collections.abc import Sequence

import onnx_ir as ir
import pytest

from export.fold.stacked import sum_directly
from export.graph.prepare import prepare
from gauge_kit import Net, assert_gone, assert_stays, folded

C, SHAPE = 4, ("rows", 3, 6, 5)
OPSETS = (11, 13, 18)


def stacked(
    net: Net, kind: str, *branches: str, axis: int = 0, keepdims: int = 0, over: int | None = None
) -> str:
    parts = [net.unsqueeze(branch, axis) for branch in branches]
    joined = net.op("Concat", *parts, axis=axis)
    return net.reduce(kind, joined, [axis if over is None else over], keepdims=keepdims)


def convs(net: Net, *, bias: bool = False) -> tuple[str, str]:
    return net.conv("x", 3, C, bias=bias), net.conv("x", 3, C, 3, 3, bias=bias, pads=[1] * 4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("opset", OPSETS)
def test_stacked_convolutions_that_are_summed_become_one(opset, axis, bias):
    net = Net(0, opset)
    y = net.norm(stacked(net, "ReduceSum", *convs(net, bias=bias), axis=axis), C)
    assert assert_gone(net, SHAPE, net.op("Sigmoid", y)).ops == ["Conv", "Sigmoid"]


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("opset", OPSETS)
def test_stacked_convolutions_of_which_the_mean_is_taken(opset, axis):
    net = Net(0, opset)
    y = net.norm(stacked(net, "ReduceMean", *convs(net), axis=axis), C)
    assert assert_gone(net, SHAPE, net.op("Sigmoid", y)).ops == ["Conv", "Conv", "Mean", "Sigmoid"]


def test_a_branch_that_holds_no_shift_leaves_it_to_the_other():
    """A Concat would ask for the same shift on both."""
    net = Net(0)
    first, second = convs(net)
    y = net.norm(stacked(net, "ReduceSum", first, net.op("Relu", second)), C, positive=True)
    assert assert_gone(net, SHAPE, net.op("Sigmoid", y)).ops == ["Conv", "Conv", "Relu", "Add", "Sigmoid"]


def test_a_batchnorm_beside_a_convolution_is_merged_into_it():
    """RepVGG's identity: neither the input nor the output holds its scale."""
    net = Net(0)
    y = stacked(net, "ReduceSum", net.norm("x", 3), net.conv("x", 3, 3, 3, 3, pads=[1] * 4))
    assert assert_gone(net, SHAPE, y).ops == ["Conv"]


def test_three_branches():
    net = Net(0)
    y = net.norm(stacked(net, "ReduceSum", *(net.conv("x", 3, C) for _ in range(3))), C)
    assert assert_gone(net, SHAPE, net.op("Sigmoid", y)).ops == ["Conv", "Sigmoid"]


KEPT = {
    "the axis is kept": {"keepdims": 1},
    "another axis is summed": {"over": 3},
}


@pytest.mark.parametrize("options", KEPT.values(), ids=KEPT)
def test_a_sum_of_something_else_stays_as_it_is(options):
    net = Net(0)
    result = folded(net, SHAPE, stacked(net, "ReduceSum", *convs(net), **options), net.norm("x", 3))
    assert "Concat" in result.ops


def others(net: Net, kind: str, axes: Sequence[int]) -> tuple[str, ...]:
    """Outputs around a Concat of two Unsqueezes, of which one is not what it seems."""
    first, second = convs(net)
    if kind == "one is no Unsqueeze":
        parts = [net.unsqueeze(first, 0), net.reshape(second, 1, -1, C, 6, 5)]
    elif kind == "one is a sum that keeps its axis":
        pair = net.op("Concat", net.unsqueeze(first, 0), net.unsqueeze(second, 0), axis=0)
        parts = [net.unsqueeze(first, 0), net.reduce("ReduceSum", pair, [0])]
    elif kind == "one is unsqueezed elsewhere":  # (1, 1, C, 6, 5) in any case
        parts = [net.unsqueeze(first, 0), net.unsqueeze(second, 1)]
    else:
        parts = [net.unsqueeze(first, 0), net.unsqueeze(second, 0)]
    joined = net.op("Concat", *parts, axis=1 if kind == "joined elsewhere" else 0)
    y = net.reduce("ReduceSum", joined, axes, keepdims=0)
    return (y, net.op("Sigmoid", joined)) if kind == "read by another" else (y,)


@pytest.mark.parametrize(
    "kind",
    [
        "one is no Unsqueeze",
        "one is a sum that keeps its axis",
        "one is unsqueezed elsewhere",
        "joined elsewhere",
        "read by another",
    ],
)
def test_what_is_not_stacked_and_summed_alone_stays_as_it_is(kind):
    net = Net(0)
    outputs = others(net, kind, [0])
    result = folded(net, (1, 3, 6, 5), *outputs, net.norm("x", 3))
    assert "Concat" in result.ops


def test_a_product_of_unsqueezed_branches_is_no_sum():
    net = Net(0)
    product = net.op("Mul", *(net.unsqueeze(branch, 0) for branch in convs(net)))
    result = folded(net, SHAPE, net.reduce("ReduceSum", product, [0], keepdims=0), net.norm("x", 3))
    assert "Mul" in result.ops


def test_several_axes_at_once_stay_a_reduction():
    net = Net(0)
    assert "Concat" in folded(net, SHAPE, *others(net, "", [0, 3]), net.norm("x", 3)).ops


def test_branches_of_unknown_rank_stay_as_they_are():
    """A file may state the type of a tensor alone."""
    net = Net(0, 13)
    y = net.op("Identity", stacked(net, "ReduceSum", *convs(net)))
    model = prepare(ir.from_proto(net.model(SHAPE, y)))
    concat = next(node for node in model.graph if node.op_type == "Concat")
    concat.outputs[0].shape = None
    sum_directly(model.graph)
    assert "Concat" in [node.op_type for node in model.graph]


def test_integers_stay_as_they_are():
    """A Sum takes floats alone."""
    net = Net(0)
    numbers = net.op("Cast", "x", to=7)
    total = net.op("Cast", stacked(net, "ReduceSum", numbers, numbers), to=11)
    assert "Concat" in folded(net, SHAPE, total, net.norm("x", 3)).ops


def test_a_sum_of_so_many_numbers_passes_so_many_shifts():
    """Over places, forward and backward; the count is that of the axes that are summed."""
    net = Net(0)
    y = net.norm(net.reduce("ReduceSum", net.conv("x", 3, C), [2, 3], keepdims=0), C)
    assert assert_gone(net, SHAPE, net.op("Sigmoid", y)).ops == ["Conv", "ReduceSum", "Sigmoid"]
    net = Net(0)
    y = net.gemm(net.reduce("ReduceSum", net.norm("x", 3), [-2, -1], keepdims=0), 3, 2)
    assert assert_gone(net, SHAPE, y).ops == ["ReduceSum", "Gemm"]


def test_a_sum_over_an_unknown_number_passes_no_shift():
    net = Net(0)
    y = net.norm(net.reduce("ReduceSum", net.conv("x", 3, C), [2, 3], keepdims=0), C)
    assert_stays(net, ("rows", 3, "h", 5), net.op("Sigmoid", y), because="the sum of ReduceSum")


@pytest.mark.parametrize("kind", ["ReduceL1", "ReduceL2"])
def test_a_norm_over_known_sizes_passes_no_shift(kind):
    net = Net(0)
    y = net.norm(net.reduce(kind, net.conv("x", 3, C), [2, 3], keepdims=0), C, positive=True)
    assert_stays(net, SHAPE, net.op("Sigmoid", y), because=f"the sum of {kind}")
