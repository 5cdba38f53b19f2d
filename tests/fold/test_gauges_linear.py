"""Linear ops take what a BatchNorm leaves: any Conv and ConvTranspose, Gemm, MatMul of any rank."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gauge_kit import Net, assert_gone, assert_stays
from gauge_op_cases import SHAPE, Build, C, Case, Passed, three_tests

SIZE = (4, 7, 6)
some = settings(max_examples=20)
seeds = st.integers(0, 2**32 - 1)
strides = st.integers(1, 2)


def conv(*kernel: int, bias: bool = True, **attributes: object) -> Build:
    return lambda net, x: (net.conv(x, C, 6, *kernel, bias=bias, **attributes), 6, 4)


def conv_transpose(*kernel: int, group: int = 1, **attributes: object) -> Build:
    def build(net: Net, x: str) -> Passed:
        weight = net.weight(C, 6 // group, *kernel)
        return net.op("ConvTranspose", x, weight, net.weight(6), group=group, **attributes), 6, 4

    return build


def pooled_gemm(net: Net, x: str) -> Passed:
    return net.gemm(net.op("Flatten", net.op("GlobalAveragePool", x)), C, 6), 6, 2


def features_last(net: Net, x: str) -> Passed:
    """MatMul between two Transposes, with a bias as an Add."""
    product = net.op("MatMul", net.op("Transpose", x, perm=[0, 2, 3, 1]), net.weight(C, 6))
    return net.op("Transpose", net.op("Add", product, net.weight(6)), perm=[0, 3, 1, 2]), 6, 4


CASES = {
    "conv": Case(kind="Conv", build=conv(2, 3, strides=[1, 2], dilations=[2, 1])),
    "conv no bias": Case(kind="Conv", build=conv(1, 1, bias=False)),
    "conv valid": Case(kind="Conv", build=conv(3, 3, auto_pad="VALID")),
    "conv padded": Case(kind="Conv", build=conv(3, 3, pads=[1, 0, 0, 2], group=2), shift=False),
    "conv same": Case(kind="Conv", build=conv(3, 2, auto_pad="SAME_LOWER"), shift=False),
    "conv same but one tap": Case(kind="Conv", build=conv(1, 1, auto_pad="SAME_UPPER", strides=[2, 2])),
    "transposed": Case(
        kind="ConvTranspose", build=conv_transpose(2, 3, strides=[2, 1], group=2), shift=False
    ),
    "transposed one tap": Case(kind="ConvTranspose", build=conv_transpose(1, 1)),
    "gemm": Case(kind="Gemm", build=pooled_gemm),
    "matmul": Case(kind="MatMul", build=features_last),
}


def after_a_pool(build: Build) -> Build:
    """So that the BatchNorm is not right before the linear op."""
    return lambda net, x: build(net, net.op("AveragePool", x, kernel_shape=[1, 1]))


def before_a_pool(build: Build) -> Build:
    """So that the BatchNorm is not right after the linear op."""

    def both(net: Net, x: str) -> Passed:
        y, channels, rank = build(net, x)
        pooled = (
            net.op("AveragePool", y, kernel_shape=[1, 1]) if rank == 4 else net.op("Mul", y, net.factor())
        )
        return pooled, channels, rank

    return both


_FORWARD = {name: replace(case, build=after_a_pool(case.build)) for name, case in CASES.items()}
_BACKWARD = {name: replace(case, build=before_a_pool(case.build), shift=True) for name, case in CASES.items()}

test_takes_its_input, _, test_refuses_a_shift = three_tests(_FORWARD, examples=4, ways=["forward"])
test_takes_its_output, *_ = three_tests(_BACKWARD, examples=4, ways=["backward"])


@some
@given(seed=seeds, dims=st.integers(1, 3), groups=st.integers(1, 3), stride=strides, dilation=strides)
def test_an_unpadded_conv_takes_all_of_its_input(seed, dims, groups, stride, dilation):
    net = Net(seed)
    window = {"strides": [stride] * dims, "dilations": [dilation] * dims}
    x = net.norm("x", 2 * groups)
    y = net.conv(x, 2 * groups, 3 * groups, *[2] * dims, group=groups, **window)
    assert assert_gone(net, ["rows", 2 * groups, *SIZE[:dims]], y).ops == ["Conv"]


@some
@given(seed=seeds, dims=st.integers(1, 3), channels=st.integers(1, 4), stride=strides, dilation=strides)
def test_a_padded_depthwise_conv_takes_scales_on_both_sides(seed, dims, channels, stride, dilation):
    net = Net(seed)
    window = {"strides": [stride] * dims, "dilations": [dilation] * dims, "pads": [1] * 2 * dims}
    x = net.norm("x", channels, shift=False)
    y = net.conv(x, channels, 2 * channels, *[2] * dims, group=channels, **window)
    y = net.norm(net.op("GlobalAveragePool", y), 2 * channels)
    assert assert_gone(net, ["rows", channels, *SIZE[:dims]], y).ops == ["Conv", "GlobalAveragePool"]


@some
@given(seed=seeds, dims=st.integers(1, 3), groups=st.integers(1, 3), stride=strides, dilation=strides)
def test_a_conv_transpose_takes_scales_on_both_sides(seed, dims, groups, stride, dilation):
    net = Net(seed)
    x = net.norm("x", 2 * groups, shift=False)
    window = {
        "strides": [stride] * dims,
        "dilations": [dilation] * dims,
        "output_padding": [stride - 1] * dims,
    }
    weight, bias = net.weight(2 * groups, 3, *[2] * dims), net.weight(3 * groups)
    y = net.op("ConvTranspose", x, weight, bias, group=groups, **window)
    y = net.norm(net.op("GlobalAveragePool", y), 3 * groups)
    assert_gone(net, ["rows", 2 * groups, *SIZE[:dims]], y)


@some
@given(
    seed=seeds,
    transposed=st.booleans(),
    alpha=st.sampled_from([1.0, -0.5]),
    beta=st.sampled_from([1.0, 2.0, 0.0]),
    bias=st.sampled_from([None, (3,), (1, 3), (1,), ()]),
)
def test_gemm_takes_all_on_both_sides(seed, transposed, alpha, beta, bias):
    net = Net(seed)
    weight = net.weight(3, 4) if transposed else net.weight(4, 3)
    c = [] if bias is None else [net.weight(*bias)]
    y = net.op("Gemm", net.norm("x", 4), weight, *c, transB=int(transposed), alpha=alpha, beta=beta)
    y = net.norm(net.op("Mul", y, net.factor(3)), 3)
    assert assert_gone(net, ["rows", 4], y).ops == ["Gemm", "Mul"]


@pytest.mark.parametrize("rank", [2, 3, 4])
@settings(max_examples=8)
@given(seed=seeds)
def test_matmul_takes_all_of_its_input(rank, seed):
    """One of rank 2 becomes a Gemm; the others have no bias, and an Add is the price."""
    net = Net(seed)
    order = [0, *range(2, rank), 1]
    x = net.norm("x", 4)
    x = x if rank == 2 else net.op("Transpose", x, perm=order)
    result = assert_gone(net, ["rows", 4, 5, 3][:rank], net.op("MatMul", x, net.weight(4, 6)))
    assert result.ops == (["Gemm"] if rank == 2 else ["Transpose", "MatMul", "Add"])
    assert result.fates["bn0"].status == ("folded" if rank == 2 else "reduced")


@pytest.mark.parametrize("rank", [3, 4])
@settings(max_examples=8)
@given(seed=seeds, shift=st.booleans())
def test_matmul_then_transpose_takes_all_of_its_output(rank, seed, shift):
    net = Net(seed)
    product = net.op("MatMul", "x", net.weight(5, 4))
    y = net.norm(net.op("Transpose", product, perm=[0, rank - 1, *range(1, rank - 1)]), 4, shift=shift)
    result = assert_gone(net, ["rows", 3, 2, 5][-rank:] if rank == 4 else ["rows", 3, 5], y)
    assert result.ops == ["MatMul", *(["Add"] if shift else []), "Transpose"]


@settings(max_examples=8)
@given(seed=seeds)
def test_matmul_between_two_batchnorms_takes_both(seed):
    net = Net(seed)
    product = net.op("MatMul", net.op("Transpose", net.norm("x", 4), perm=[0, 2, 1]), net.weight(4, 3))
    y = net.norm(net.op("Transpose", product, perm=[0, 2, 1]), 3)
    assert assert_gone(net, ["rows", 4, 5], y).ops == ["Transpose", "MatMul", "Add", "Transpose"]


@settings(max_examples=8)
@given(seed=seeds, between=st.sampled_from([(), (2, 3)]))
def test_matmul_then_reshape_to_rows_becomes_a_gemm(seed, between):
    net = Net(seed)
    product = net.op("MatMul", "x", net.weight(5, 4))
    y = net.norm(net.reshape(product, -1, 4), 4)
    result = assert_gone(net, ["rows", *(between or (3,)), 5], y)
    assert result.ops == ["Reshape", "Gemm"]


@settings(max_examples=8)
@given(seed=seeds)
def test_a_linear_op_takes_no_row_scale(seed):
    """transA, a bias for each row, and a constant on the left make rows of what would be features."""
    net = Net(seed)
    y = net.op("Gemm", net.norm("x", 4), net.weight(3, 2), transA=1)
    assert_stays(net, [3, 4], y, because="Gemm 'gemm1' cannot absorb a scale or shift")
    net = Net(seed)
    y = net.op("Gemm", net.norm("x", 4), net.weight(4, 2), net.weight(3, 2))
    assert_stays(net, [3, 4], y, because="Gemm 'gemm1' cannot absorb a scale or shift")
    net = Net(seed)
    y = net.op("MatMul", net.weight(2, 3), net.norm("x", 4))
    assert_stays(net, [3, 4], y, because="the graph's output 'matmul1.0' must stay the same")


@settings(max_examples=8)
@given(seed=seeds)
def test_weights_computed_at_run_time_take_nothing(seed):
    net = Net(seed)
    weights = net.op("Abs", net.op("ReduceMax", "x", keepdims=1))
    y = net.op("Conv", net.norm("x", C), net.op("Expand", weights, net.constant(np.array([2, C, 1, 1]))))
    assert_stays(net, SHAPE, y, because="cannot absorb a scale or shift")
