"""Einsum and MatMul with a constant on any axis: what passes, and what the constant absorbs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gauge_kit import Net, assert_gone, assert_stays
from gauge_op_cases import Build, C, Case, three_tests

SHAPE = ("rows", C, 6, 5)
seeds = st.integers(0, 2**32 - 1)


def einsum(equation: str, *shape: int, channels: int = C, rank: int = 4, swap: bool = False) -> Build:
    def build(net: Net, x: str) -> tuple[str, int, int]:
        parts = [x, net.weight(*shape)]
        return net.op("Einsum", *(parts[::-1] if swap else parts), equation=equation), channels, rank

    return build


def matmul(*shape: int, left: bool = False) -> Build:
    def build(net: Net, x: str) -> tuple[str, int, int]:
        parts = [x, net.weight(*shape)]
        return net.op("MatMul", *(parts[::-1] if left else parts)), C, 4

    return build


CASES = {
    "channels into channels": Case(kind="Einsum", build=einsum("nchw,co->nohw", C, 3, channels=3), first=13),
    "weights first": Case(
        kind="Einsum", build=einsum("oc,nchw->nohw", 3, C, channels=3, swap=True), first=13
    ),
    "each channel its matrix": Case(kind="Einsum", build=einsum("nchw, cwv -> nchv", C, 5, 7), first=13),
    "a graph of joints": Case(kind="Einsum", build=einsum("nctv,vw->nctw", 5, 5), first=13),
    "a sum over places": Case(kind="Einsum", build=einsum("nchw,hwp->ncp", 6, 5, 2, rank=3), first=13),
    "any axes before": Case(kind="Einsum", build=einsum("...vw,wu->...vu", 5, 7), first=13),
    "any axes after": Case(
        kind="Einsum", build=einsum("oc,nc...->no...", 3, C, channels=3, swap=True), first=13
    ),
    "any axes of both": Case(kind="Einsum", build=einsum("n...w,...wv->n...v", C, 6, 5, 7), first=13),
    "any axes, which are none": Case(kind="Einsum", build=einsum("nchw...,cwv->nchv", C, 5, 7), first=13),
    "adjacency": Case(kind="MatMul", build=matmul(5, 7)),
    "adjacency for all": Case(kind="MatMul", build=matmul(1, 5, 7)),
    "rows of places": Case(kind="MatMul", build=matmul(7, 6, left=True)),
    "a matrix for each channel": Case(kind="MatMul", build=matmul(C, 5, 7)),
    "from the left for each": Case(kind="MatMul", build=matmul(1, C, 7, 6, left=True)),
}

test_goes, *_ = three_tests(CASES, examples=4)


@settings(max_examples=4)
@given(seed=seeds)
def test_graph_convolutions_pass_scales_and_an_add_takes_the_shift(seed):
    """ST-GCN: a Conv makes K sets of channels, which adjacencies mix and sum up; only an Add is left."""
    net = Net(seed, 13)
    sets = net.reshape(net.conv("x", C, 2 * C), 0, 2, C, 6, 5)
    mixed = net.op("Einsum", sets, net.weight(2, 5, 5), equation="nkctv,kvw->nctw")
    result = assert_gone(net, SHAPE, net.op("Sigmoid", net.norm(mixed, C)))
    assert result.ops == ["Conv", "Reshape", "Einsum", "Add", "Sigmoid"]


@settings(max_examples=4)
@given(seed=seeds)
def test_a_linear_layer_written_from_the_left(seed):
    """W · x of (rows, features, places): W takes the scale, an Add the shift; or W takes all of its input."""
    net = Net(seed, 13)
    product = net.op("MatMul", net.weight(3, 4), net.reshape(net.op("Sigmoid", "x"), 0, C, 30))
    result = assert_gone(net, SHAPE, net.op("Sigmoid", net.norm(product, 3)))
    assert "Add" in result.ops
    net = Net(seed, 13)
    normed = net.norm(net.reshape(net.op("Sigmoid", "x"), 0, C, 30), C)
    assert_gone(net, SHAPE, net.op("Sigmoid", net.op("MatMul", net.weight(3, 4), normed)))


@pytest.mark.parametrize("equation", ["nchw,co->no", "nchw,chw", "n...w,...wv->n...v"])
def test_what_is_no_contraction_of_both_is_not_understood(equation):
    """x is summed along h and w alone; no output is named; W is repeated along c and h."""
    shapes = {"nchw,co->no": (C, 3), "nchw,chw": (C, 6, 5)}
    net = Net(0, 13)
    y = net.op("Einsum", net.norm("x", C), net.weight(*shapes.get(equation, (1, 1, 5, 7))), equation=equation)
    assert_stays(net, (2, C, 6, 5), y, because="Einsum 'einsum1' cannot absorb")
