"""Folds at a price: exact, only where asked for, and no more of it than is needed."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.fold.gauges.system import Price
from gauge_kit import Net, assert_gone, assert_stays, folded
from gauge_op_cases import SHAPE, C

THRESHOLD, BORDER, BIAS = (frozenset({price}) for price in (Price.THRESHOLD, Price.BORDER, Price.BIAS))
NOTHING, EVERYTHING = frozenset(), frozenset(Price)
some = settings(max_examples=10)
seeds = st.integers(0, 2**32 - 1)
SIGNS = {"positive": ["Max"], "negative": ["Min"], "mixed": ["Max", "Min"]}


def norm(net: Net, x: str, channels: int, signs: str, **options: bool) -> str:
    y = net.norm(x, channels, positive=signs != "mixed", **options)
    if signs == "negative":
        net.arrays[y.replace(".y", ".gamma")] *= -1
    if signs == "mixed":
        net.arrays[y.replace(".y", ".gamma")][:2] = [-1.25, 0.75]
    return y


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize("opset", [8, 11, 13, 18])
@some
@given(seed=seeds, pooled=st.booleans())
def test_a_threshold_takes_what_relu_cuts(signs, opset, seed, pooled):
    """max(x, −t/s) for γ > 0, min for γ < 0, both for both; before an unpadded Conv, or a pool and a Gemm."""
    net = Net(seed, opset)
    y = net.op("Relu", norm(net, "x", C, signs))
    if pooled:
        y = net.gemm(net.op("Flatten", net.op("GlobalAveragePool", y)), C, 3)
    else:
        y = net.conv(y, C, 3, 2, 2)
    assert_stays(net, SHAPE, y, because="cannot be absorbed")
    result = assert_gone(net, SHAPE, y, prices=THRESHOLD)
    assert result.ops == [*SIGNS[signs], *(["GlobalAveragePool", "Flatten", "Gemm"] if pooled else ["Conv"])]
    assert "the price: a Max or Min with a constant at Relu 'relu1'" in result.how()
    assert result.fates["bn0"].status == "folded"


@pytest.mark.parametrize("signs", SIGNS)
@some
@given(seed=seeds)
def test_a_threshold_takes_what_stands_after_relu(signs, seed):
    """Conv → Relu → BatchNorm, as the output of the graph."""
    net = Net(seed)
    y = norm(net, net.op("Relu", net.conv("x", C, C, 3, 3, pads=[1] * 4)), C, signs)
    assert assert_gone(net, SHAPE, y, prices=THRESHOLD).ops == ["Conv", *SIGNS[signs]]


@some
@given(seed=seeds)
def test_no_threshold_where_relu_can_stay(seed):
    """One Relu of four pays: the others stand after Convs, or pass what they get."""
    net = Net(seed)
    y = net.conv(net.op("Relu", net.norm(net.conv("x", C, C), C)), C, C)
    y = net.norm(net.op("Relu", y), C, positive=True, shift=False)
    y = net.conv(y, C, C)
    y = net.conv(net.op("Relu", net.norm(net.op("Relu", y), C, positive=True)), C, 3)
    result = assert_gone(net, SHAPE, y, prices=EVERYTHING)
    assert Counter(result.ops) == {"Conv": 4, "Relu": 3, "Max": 1}


@some
@given(seed=seeds)
def test_nothing_is_paid_where_all_go_for_free(seed):
    net = Net(seed)
    x = net.norm(net.op("Relu", net.conv("x", C, C)), C, positive=True, shift=False)
    y = net.conv(net.op("Relu", net.norm(x, C, positive=True)), C, 3, 3, 3, pads=[1] * 4)
    net.arrays["bn1.beta"][:] = net.arrays["bn1.mean"][:] = 0
    assert assert_gone(net, SHAPE, y, prices=EVERYTHING).ops == ["Conv", "Relu", "Relu", "Conv"]


@pytest.mark.parametrize("signs", ["positive", "mixed"])
@some
@given(seed=seeds, layers=st.integers(2, 4))
def test_all_of_a_dense_block_goes_by_thresholds(signs, seed, layers):
    """Each layer reads all features before it.  One of those readers may have it its way; the others pay."""
    net = Net(seed)
    features, channels = net.conv("x", C, C), C
    for _ in range(layers):
        y = net.op("Relu", norm(net, features, channels, signs))
        y = net.op("Relu", norm(net, net.conv(y, channels, 6), 6, signs))
        grown = net.conv(y, 6, 3, 3, 3, pads=[1] * 4)
        features, channels = net.op("Concat", features, grown, axis=1), channels + 3
    y = net.op("GlobalAveragePool", net.op("Relu", norm(net, features, channels, signs)))
    y = net.gemm(net.op("Flatten", y), channels, 3)
    free = folded(net, SHAPE, y)
    assert {f"bn{2 * layer + 1}" for layer in range(layers)} <= free.gone()
    assert len(free.gone()) == layers + 1
    result = assert_gone(net, SHAPE, y, prices=THRESHOLD)
    paid = {name for name in result.fates if "the price" in result.how(name)}
    assert len(paid) <= layers + (signs == "mixed"), "one of the readers has it its way"
    assert Counter(result.ops)["Relu"] >= layers, "those after a Conv of their own"


def test_opset_7_has_no_max_that_broadcasts():
    net = Net(0, 7)
    y = net.conv(net.op("Relu", net.norm("x", C, positive=True)), C, 3)
    assert_stays(net, SHAPE, y, because="the cut at 0 of Relu 'relu1' allows no shift", prices=EVERYTHING)


@pytest.mark.parametrize("kind", ["LeakyRelu", "Sigmoid", "Clip"])
def test_no_other_activation_has_a_threshold(kind):
    net = Net(0)
    y = net.conv(net.op(kind, net.norm("x", C)), C, 3)
    assert_stays(net, SHAPE, y, because="cannot be absorbed", prices=EVERYTHING)


@settings(max_examples=60)
@given(
    seed=seeds,
    dims=st.integers(1, 3),
    groups=st.integers(1, 2),
    kernel=st.integers(2, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    pads=st.lists(st.integers(0, 3), min_size=6, max_size=6).filter(any),
    bias=st.booleans(),
    auto_pad=st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER"]),
    opset=st.sampled_from([7, 11, 18]),
)
def test_a_border_takes_any_shift_into_a_padded_conv(
    seed, dims, groups, kernel, stride, dilation, pads, bias, auto_pad, opset
):
    net = Net(seed, opset)
    sizes = [5, 6, 7][:dims]
    window = {"strides": [stride] * dims, "dilations": [dilation] * dims, "group": groups}
    window |= {"pads": [1, *pads][: 2 * dims]} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
    x = net.norm("x", 2 * groups)
    y = net.conv(x, 2 * groups, 3 * groups, *[kernel] * dims, bias=bias, **window)
    y = net.norm(net.op("GlobalAveragePool", y), 3 * groups)
    shape = ["rows", 2 * groups, *sizes]
    without = folded(net, shape, y)
    result = assert_gone(net, shape, y, prices=BORDER)
    assert "the zero padding of Conv" in without.how() or result.ops == without.ops
    assert result.ops == ["Conv", *(["Add"] if "bn0" not in without.gone() else []), "GlobalAveragePool"]


def test_a_border_is_a_map_of_the_picture_without_rows():
    net = Net(0)
    y = net.conv(net.norm("x", C), C, 3, 3, 3, pads=[1] * 4)
    result = assert_gone(net, SHAPE, y, prices=BORDER)
    (add,) = [node for node in result.folded.graph if node.op_type == "Add"]
    border = add.inputs[1].const_value.numpy()
    assert border.shape == (3, 6, 5)
    np.testing.assert_allclose(border[:, 1:-1, 1:-1], 0, atol=1e-12)
    assert (np.abs(border[:, 0]) > 1e-9).all()
    assert "the price: an Add for its border at Conv 'conv1'" in result.how()


@pytest.mark.parametrize("size", [("h", 5), (6, "w")])
def test_no_border_where_the_size_is_unknown(size):
    net = Net(0)
    y = net.conv(net.norm("x", C), C, 3, 3, 3, pads=[1] * 4)
    proto = net.model(["rows", C, *size], y)
    assert proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value == C
    net.random = np.random.default_rng(0)
    assert_stays(net, ["rows", C, *size], y, because="the zero padding of Conv", prices=EVERYTHING)


@pytest.mark.parametrize("shift", [True, False])
@some
@given(seed=seeds)
def test_no_border_where_none_is_needed(shift, seed):
    net = Net(seed)
    pads = [0] * 4 if shift else [1] * 4
    y = net.conv(net.norm("x", C, shift=shift), C, 3, 3, 3, pads=pads)
    assert assert_gone(net, SHAPE, y, prices=EVERYTHING).ops == ["Conv"]


@some
@given(seed=seeds)
def test_a_threshold_in_front_of_a_border(seed):
    """BatchNorm → Relu → padded Conv costs both; one price alone is not enough."""
    net = Net(seed)
    y = net.conv(net.op("Relu", net.norm("x", C)), C, 3, 3, 3, pads=[1] * 4)
    for price in (THRESHOLD, BORDER):
        assert_stays(net, SHAPE, y, because="cannot be absorbed", prices=price)
    assert Counter(assert_gone(net, SHAPE, y, prices=EVERYTHING).ops)["Add"] == 1


@pytest.mark.parametrize("shift", [True, False])
@some
@given(seed=seeds)
def test_a_bias_is_paid_for_a_shift_only(shift, seed):
    net = Net(seed)
    product = net.op("Transpose", net.op("MatMul", "x", net.weight(5, 4)), perm=[0, 2, 1])
    y = net.norm(product, 4, shift=shift)
    if shift:
        assert_stays(net, ["rows", 3, 5], y, because="the missing bias of MatMul 'matmul0'", prices=NOTHING)
    result = assert_gone(net, ["rows", 3, 5], y, prices=BIAS if shift else EVERYTHING)
    assert result.ops == ["MatMul", *(["Add"] if shift else []), "Transpose"]
    assert result.fates["bn0"].status == ("reduced" if shift else "folded")


@some
@given(seed=seeds)
def test_a_bias_that_is_there_is_not_paid_for(seed):
    net = Net(seed)
    product = net.op("Add", net.op("MatMul", "x", net.weight(5, 4)), net.weight(4))
    y = net.norm(net.op("Transpose", product, perm=[0, 2, 1]), 4)
    assert assert_gone(net, ["rows", 3, 5], y, prices=EVERYTHING).ops == ["MatMul", "Add", "Transpose"]
