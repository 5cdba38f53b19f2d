"""An Add or Sub of a constant is the bias that a MatMul, Einsum or Mul before it lacks."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from export.fold.gauges.system import FREE, Price
from export.fold.stages import fold
from export.graph.edit import constant
from export.graph.moments import know, moments_of, normal
from export.graph.prepare import prepare
from gauge_kit import EXACT, Net, Result, assert_gone, assert_stays, difference
from onnx_graphs import graph, value

C, OUT, SHAPE = 4, 5, ("rows", 4, 6)
NOTHING: frozenset[Price] = frozenset()

BIASES = {
    "add": lambda net, y, k: net.op("Add", y, k),
    "add to a constant": lambda net, y, k: net.op("Add", k, y),
    "sub": lambda net, y, k: net.op("Sub", y, k),
    "sub from a constant": lambda net, y, k: net.op("Sub", k, y),
}


def product(net: Net, op: str, x: str) -> str:
    """Of (rows, 4, 6): features on the last axis, or a map of them; a shift is alike everywhere."""
    if op == "matmul":
        return net.op("MatMul", net.op("Transpose", x, perm=[0, 2, 1]), net.weight(C, OUT))
    return net.op("Einsum", x, net.weight(C, OUT, 3), equation="nct,cop->ntop")


def of_places(net: Net, op: str, x: str) -> str:
    """Of (rows, 4, 6): what mixes or scales the 6 places within each channel, and its shift by place."""
    if op == "matmul":
        return net.op("MatMul", x, net.weight(6, 6))
    return net.op("Mul" if op == "mul" else "Div", x, net.factor(C, 6))


def folded_for_free(result: Result, ops: list[str]) -> None:
    assert result.ops == ops
    assert result.fates["bn0"].status == "folded"
    assert "the price" not in result.how()


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("size", [(OUT,), (1,), ()])
@pytest.mark.parametrize("prices", [FREE, NOTHING])
def test_the_constant_after_a_matmul_takes_the_shift(bias, size, prices):
    net = Net(0)
    y = BIASES[bias](net, product(net, "matmul", net.norm("x", C)), net.weight(*size))
    result = assert_gone(net, SHAPE, net.op("Sigmoid", y), prices=prices)
    kind = bias.split()[0].capitalize()
    folded_for_free(result, ["Transpose", "MatMul", kind, "Sigmoid"])
    assert result.how() == f"into MatMul 'matmul2', {kind} '{kind.lower()}3' after it"


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("size", [(OUT, 3), (OUT, 1), (3,), ()])
def test_so_does_that_after_an_einsum(bias, size):
    net = Net(1, 13)
    y = BIASES[bias](net, product(net, "einsum", net.norm("x", C)), net.weight(*size))
    folded_for_free(
        assert_gone(net, SHAPE, net.op("Sigmoid", y)), ["Einsum", bias.split()[0].capitalize(), "Sigmoid"]
    )


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("op", ["matmul", "mul", "div"])
@pytest.mark.parametrize("size", [(C, 1), (C, 6), (6,), ()])
def test_a_shift_that_differs_from_place_to_place_goes_there_too(bias, op, size):
    net = Net(2)
    y = BIASES[bias](net, of_places(net, op, net.norm("x", C)), net.weight(*size))
    y = net.conv(y, C, 3, 1) if op == "matmul" else net.op("Sigmoid", y)
    first, last = {"matmul": ("MatMul", "Conv"), "mul": ("Mul", "Sigmoid"), "div": ("Div", "Sigmoid")}[op]
    folded_for_free(assert_gone(net, SHAPE, y), [first, bias.split()[0].capitalize(), last])


def test_a_matmul_of_rank_2_has_a_bias_of_its_own():
    net = Net(11)
    y = net.op("Add", net.op("MatMul", net.norm("x", C), net.weight(C, OUT)), net.weight(OUT))
    folded_for_free(assert_gone(net, ("rows", C), net.op("Sigmoid", y)), ["Gemm", "Add", "Sigmoid"])


def test_where_there_is_no_shift_the_constant_stays_as_it_is():
    net = Net(12)
    y = net.op("Add", product(net, "matmul", net.norm("x", C, shift=False)), net.weight(OUT))
    assert assert_gone(net, SHAPE, net.op("Sigmoid", y)).how() == "into MatMul 'matmul2' after it"


def test_between_two_batchnorms_it_takes_the_shifts_of_both():
    net = Net(3)
    y = net.op("Add", product(net, "matmul", net.norm("x", C)), net.weight(OUT))
    y = net.norm(net.op("Transpose", y, perm=[0, 2, 1]), OUT)
    assert assert_gone(net, SHAPE, y).ops == ["Transpose", "MatMul", "Add", "Transpose"]


def test_means_over_places_leave_the_constant_its_shape():
    """What sums up to one number everywhere shifts each channel alike: (4, 1) does not become (4, 6)."""
    net = Net(4)
    y = net.op("MatMul", net.norm("x", C), net.constant(np.full((6, 6), 0.25)))
    result = assert_gone(net, SHAPE, net.conv(net.op("Add", y, net.weight(C, 1)), C, 3, 1))
    add = next(node for node in result.folded.graph if node.op_type == "Add")
    assert list(add.inputs[1].shape) == [1, C, 1]


def test_several_scales_of_one_tensor_each_have_a_bias():
    """Without them it would be an Add for each, and the BatchNorm stays."""
    net = Net(5)
    x = net.norm("x", C)
    ends = [net.op("Sigmoid", net.op("Add", of_places(net, "mul", x), net.weight(C, 6))) for _ in range(2)]
    assert assert_gone(net, SHAPE, *ends).ops.count("Add") == 2


def test_a_constant_that_others_read_too_is_copied():
    net = Net(6)
    bias = net.weight(OUT)
    y = net.op("Add", product(net, "matmul", net.norm("x", C)), bias)
    assert_gone(net, SHAPE, net.op("Sigmoid", y), net.op("Sigmoid", bias))


READERS = {
    "another op": lambda net, y: [net.op("Sigmoid", net.op("Add", y, net.weight(OUT))), net.op("Sigmoid", y)],
    "the graph": lambda net, y: [net.op("Sigmoid", net.op("Add", y, net.weight(OUT))), y],
    "twice": lambda net, y: [net.op("Sigmoid", net.op("Add", y, y))],
    "a product": lambda net, y: [net.op("Sigmoid", net.op("Mul", y, net.factor(OUT)))],
    "a power": lambda net, y: [net.op("Sigmoid", net.op("Pow", y, net.constant(np.array(3.0))))],
}


@pytest.mark.parametrize("reader", [*READERS, "a computed tensor"])
def test_where_anything_else_reads_it_an_add_is_the_price(reader):
    net = Net(7)
    shape = ("rows", 4, 4) if reader == "a computed tensor" else SHAPE
    if reader == "a computed tensor":
        y = product(net, "matmul", net.norm("x", C))
        ends = [net.op("Sigmoid", net.op("Add", y, net.op("Sin", net.op("MatMul", "x", net.weight(4, OUT)))))]
    else:
        ends = READERS[reader](net, product(net, "matmul", net.norm("x", C)))
    result = assert_gone(net, shape, *ends)
    assert result.fates["bn0"].status == "reduced"
    assert_stays(net, shape, *ends, because="the missing bias of MatMul 'matmul2'", prices=NOTHING)


def test_an_add_in_a_branch_is_no_bias():
    """It runs only where its branch does, and a branch reads what the net computes."""
    net = Net(8)
    y = product(net, "matmul", net.norm("x", C))
    bias, size = net.weight(OUT), net.constant(np.array([2, 6, OUT]))
    branches = {
        f"{kind}_branch": helper.make_graph(
            [helper.make_node(op, inputs, [f"{kind}.y"])], kind, [], [value(f"{kind}.y", [2, 6, OUT])]
        )
        for kind, op, inputs in (("then", "Add", [y, bias]), ("else", "Expand", [bias, size]))
    }
    condition = net.op("Greater", net.op("ReduceMax", "x", keepdims=0), net.constant(0.5))
    z = net.op("If", condition, **branches)
    assert assert_gone(net, (2, *SHAPE[1:]), z).fates["bn0"].status == "reduced"


def _product_and_bias() -> ir.Model:
    net = Net(9)
    y = net.op("Add", product(net, "matmul", net.norm("x", C)), net.weight(OUT))
    return prepare(ir.from_proto(net.model(SHAPE, net.op("Sigmoid", y))))


def test_an_add_of_unknown_shape_is_none():
    """Nothing is known of what it takes."""
    model = _product_and_bias()
    unfolded = model.clone()
    (add,) = (node for node in model.graph if node.op_type == "Add")
    add.outputs[0].shape = None
    made, (site,) = fold(model)
    assert site.status == "reduced"
    assert difference(unfolded, made, np.random.default_rng(0).normal(size=(2, 4, 6))) < EXACT


def test_what_is_known_of_the_product_shifts_too():
    model = _product_and_bias()
    product_, before = _product_and_constant(model)
    know(product_, normal(np.zeros((1, 1, OUT)), np.ones((1, 1, OUT))))
    product_, after = _product_and_constant(fold(model)[0])
    assert np.allclose(moments_of(product_).mean, before - after)
    assert np.abs(before - after).min() > 0.01


def _product_and_constant(model: ir.Model) -> tuple[ir.Value, np.ndarray]:
    (add,) = (node for node in model.graph if node.op_type == "Add")
    return add.inputs[0], constant(add.inputs[1])


def test_where_the_bias_would_overflow_that_batchnorm_alone_stays():
    net = Net(10)
    y = net.op("Add", product(net, "matmul", net.norm("x", C)), net.weight(OUT))
    z = net.op(
        "Sigmoid", net.op("Mul", net.norm(net.op("Sigmoid", net.conv("x", C, C, 1)), C), net.factor(C, 1))
    )
    net.arrays["bn0.beta"][:], net.arrays["k4"][:] = 3e4, 1
    proto = graph(net.nodes, net.arrays, SHAPE, [net.op("Sigmoid", y), z], dtype=np.float16)
    _, sites = fold(prepare(ir.from_proto(proto)))
    assert [site.status for site in sites] == ["declined", "reduced"]
    assert "overflow float16" in sites[0].reason
