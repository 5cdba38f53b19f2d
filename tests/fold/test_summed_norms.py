"""BatchNorms of one tensor that are summed become one, with that tensor where it is a term too."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.fold.stages import fold
from export.graph.prepare import prepare
from file_kit import model, node, norm, norm_arrays
from gauge_kit import Net, Result, assert_gone, folded

C, SHAPE = 4, ("rows", 3, 6, 6)
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=60)
@given(seed=SEEDS, norms=st.integers(1, 3), own=st.integers(0, 3), others=st.integers(0, 2))
def test_any_sum_of_them_goes_into_the_conv(seed: int, norms: int, own: int, others: int):
    """In any order and any tree of Adds, beside terms of other tensors."""
    net = Net(seed, 13)
    x = net.conv("x", 3, C, 3, 3, pads=[1] * 4)
    terms = [net.norm(x, C) for _ in range(norms)] + [x] * own
    terms += [net.op(kind, x) for kind in ("Sigmoid", "Tanh")[:others]]
    terms = [terms[place] for place in net.random.permutation(len(terms))]
    while len(terms) > 1:
        one, two = net.random.permutation(len(terms))[:2]
        total = net.op("Add", terms[one], terms[two])
        terms = [term for place, term in enumerate(terms) if place not in (one, two)] + [total]
    result = folded(net, SHAPE, net.op("Relu", terms[0]))
    assert result.ops.count("Add") == others
    assert result.ops.count("BatchNormalization") <= 1
    assert others or result.ops == ["Conv", "Relu"]


def by_sums(net: Net, *terms: str) -> Result:
    total, *rest = terms
    for term in rest:
        total = net.op("Add", total, term)
    return folded(net, SHAPE, net.op("Sigmoid", total))


def test_the_account_says_where_each_went():
    net = Net(0)
    x = net.conv("x", 3, C)
    result = by_sums(net, net.norm(x, C), net.norm(x, C), x)
    assert result.gone() == {"bn0", "bn1"}
    assert result.how("bn0") == "into the weights of Conv 'conv0' before it"
    assert result.how("bn1") == "into BatchNorm 'bn0' beside it"


def test_where_no_op_takes_it_one_is_left():
    net = Net(1)
    x = net.op("Sigmoid", "x")
    result = by_sums(net, net.norm(x, 3), net.norm(x, 3), x)
    assert result.ops == ["Sigmoid", "BatchNormalization", "Sigmoid"]


def test_each_tensor_has_one_of_its_own():
    net = Net(2)
    one, two = net.op("Sigmoid", "x"), net.op("Tanh", "x")
    result = by_sums(net, net.norm(one, 3), net.norm(two, 3), one, net.norm(two, 3), net.norm(one, 3))
    assert sorted(result.ops) == sorted(["Sigmoid", "Tanh", *["BatchNormalization"] * 2, "Add", "Sigmoid"])


def test_what_another_op_reads_stays():
    """Of a BatchNorm, and of a sum."""
    net = Net(3)
    x = net.op("Sigmoid", "x")
    first, second = net.norm(x, 3), net.norm(x, 3)
    part = net.op("Add", first, x)
    result = folded(net, SHAPE, net.op("Sigmoid", net.op("Add", part, second)), net.op("Tanh", second), part)
    assert result.ops.count("BatchNormalization") == 2
    assert result.ops.count("Add") == 1


def test_scales_that_cancel_leave_a_shift():
    net = Net(4)
    x = net.conv("x", 3, C)
    first = net.norm(x, C)
    result_of = net.norm(x, C)
    net.arrays["bn1.gamma"] = -net.arrays["bn0.gamma"]
    net.arrays["bn1.var"] = net.arrays["bn0.var"]
    assert by_sums(net, first, result_of).ops == ["Conv", "Sigmoid"]


@pytest.mark.parametrize("norms", [1, 2])
def test_in_a_graph_whose_output_is_the_sum(norms: int):
    """The name of the graph's output stays, though the last Add goes."""
    net = Net(5)
    x = net.conv("x", 3, C)
    total = x
    for _ in range(norms):
        total = net.op("Add", total, net.norm(x, C))
    result = assert_gone(net, SHAPE, total)
    assert [value.name for value in result.folded.graph.outputs] == [total]
    assert result.ops == ["Conv"]


def test_a_sum_that_float32_cannot_hold_is_left_as_it_is():
    arrays = norm_arrays(3) | norm_arrays(3, prefix="more")
    for prefix in ("bn", "more"):
        arrays |= {f"{prefix}.gamma": np.full(3, 2e38, np.float32), f"{prefix}.var": np.ones(3, np.float32)}
    nodes = [node("Sigmoid", "x", "q"), norm("q", "n"), norm("q", "m", "more")]
    nodes += [node("Add", "n m", "a"), node("Tanh", "a", "y")]
    graph, sites = fold(prepare(ir.from_proto(model(nodes, arrays, {"x": ["N", 3, 6, 6]}))))
    assert [site.status for site in sites] == ["declined"] * 2
    assert [one.op_type for one in graph.graph] == [one.op_type for one in nodes]


@pytest.mark.parametrize(
    ("left", "right"),
    [("bn", "bn"), ("bn", "x"), ("x", "bn"), ("bn + x", "bn"), ("bn + tanh", "bn"), ("bn + tanh", "x")],
)
@pytest.mark.parametrize("is_output", [True, False])
def test_what_is_subtracted_is_merged_too(left: str, right: str, is_output: bool):
    net = Net(6)
    x = net.conv("x", 3, C)
    make = {"bn": lambda: net.norm(x, C), "x": lambda: x, "tanh": lambda: net.op("Tanh", x)}
    sides = [[make[term]() for term in side.split(" + ")] for side in (left, right)]
    total = net.op("Sub", net.op("Add", *sides[0]) if len(sides[0]) > 1 else sides[0][0], sides[1][0])
    result = folded(net, SHAPE, total if is_output else net.op("Relu", total))
    assert result.ops.count("BatchNormalization") == ("tanh" in left)
    assert result.ops.count("Sub") == 0
    assert result.ops.count("Add") == ("tanh" in left)


def test_where_nothing_of_one_tensor_is_subtracted_the_sub_stays():
    net = Net(7)
    x = net.op("Sigmoid", "x")
    result = folded(net, SHAPE, net.op("Tanh", net.op("Sub", net.op("Tanh", x), net.norm(x, 3))))
    assert result.ops == ["Sigmoid", "Tanh", "BatchNormalization", "Sub", "Tanh"]


def test_a_difference_whose_parts_others_read_stays():
    net = Net(8)
    x = net.op("Sigmoid", "x")
    first, second = net.norm(x, 3), net.norm(x, 3)
    result = folded(net, SHAPE, net.op("Sub", first, second), net.op("Tanh", second))
    assert result.ops.count("BatchNormalization") == 2
    assert result.ops.count("Sub") == 1
