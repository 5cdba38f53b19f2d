"""A · x · W mixes nodes by A and features by W: the BatchNorm after it says which of them takes its scale.

rows of nodes (N, 6, 4)      A (6, 6) from the left      W (4, 3) from the right
"""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.fold.per_channel import fold_per_channel
from export.fold.stages import fold
from export.graph.prepare import prepare
from gauge_kit import EXACT, Net, assert_gone, assert_stays, difference, folded

NODES, SHAPE = 6, ("rows", 6, 4)
seeds = st.integers(0, 2**32 - 1)
some = settings(max_examples=4)


def mixed(net: Net, x: str, adjacency: np.ndarray | None = None) -> str:
    """A · x; A of both signs unless it is given."""
    given_a = net.weight(NODES, NODES) if adjacency is None else net.constant(adjacency)
    return net.op("MatMul", given_a, x)


def features(net: Net, x: str, inputs: int = 4, *, bias: bool = True) -> str:
    """x · W + b, 3 features on the last axis."""
    product = net.op("MatMul", x, net.weight(inputs, 3))
    return net.op("Add", product, net.weight(3)) if bias else product


def norm_of_features(net: Net, x: str) -> str:
    return net.norm(net.op("Transpose", x, perm=[0, 2, 1]), 3)


def ring() -> np.ndarray:
    """Each node and its neighbours: every row and column sums up to 1.1, in any order."""
    own = np.eye(NODES)
    return 0.1 * own + 0.3 * np.roll(own, 1, 0) + 0.7 * np.roll(own, -1, 0)


@pytest.mark.parametrize("bias", [True, False])
@some
@given(seed=seeds)
def test_a_graph_convolution_folds_into_the_weights_of_its_features(seed, bias):
    net = Net(seed)
    y = norm_of_features(net, features(net, mixed(net, "x"), bias=bias))
    result = assert_gone(net, SHAPE, net.op("Sigmoid", y))
    assert result.ops == ["MatMul", "MatMul", "Add", "Transpose", "Sigmoid"]
    assert result.fates["bn0"].status == ("folded" if bias else "reduced"), "the Add is the missing bias"


@some
@given(seed=seeds)
def test_so_does_one_written_as_einsum(seed):
    net = Net(seed, 13)
    nodes = net.op("Einsum", net.weight(NODES, NODES), "x", equation="ij,bjc->bic")
    made = net.op("Einsum", nodes, net.weight(4, 3), equation="bnc,co->bno")
    assert_gone(net, SHAPE, net.op("Sigmoid", norm_of_features(net, made)))


@pytest.mark.parametrize("flat", ["reshape", "flatten"])
def test_so_does_one_whose_nodes_are_rows_of_its_batchnorm(flat):
    net = Net(0)
    made = features(net, mixed(net, "x"))
    rows = net.reshape(made, -1, 3) if flat == "reshape" else net.op("Flatten", made, axis=2)
    assert_gone(net, SHAPE, net.op("Sigmoid", net.reshape(net.norm(rows, 3), -1, NODES, 3)))


@some
@given(seed=seeds)
def test_two_branches_of_one_sum(seed):
    """W₁ · x + W₂ · A · x: the features of both take it, not the nodes of the second alone."""
    net = Net(seed)
    total = net.op("Add", features(net, "x"), features(net, mixed(net, "x")))
    assert_gone(net, SHAPE, net.op("Sigmoid", norm_of_features(net, total)))


@some
@given(seed=seeds)
def test_an_adjacency_after_the_features_passes_what_they_take(seed):
    """A₂ · (A₁ · x · W₁ + x · W₂): A₂ passes the features' scale on."""
    net = Net(seed)
    total = net.op("Add", features(net, mixed(net, "x")), features(net, "x"))
    assert_gone(net, SHAPE, net.op("Sigmoid", norm_of_features(net, mixed(net, total))))


@some
@given(seed=seeds)
def test_a_batchnorm_over_the_nodes_folds_into_the_adjacency(seed):
    net = Net(seed)
    y = net.norm(mixed(net, features(net, "x", bias=False)), NODES)
    assert_gone(net, SHAPE, net.op("Sigmoid", y))


@some
@given(seed=seeds)
def test_and_through_the_features_if_they_come_last(seed):
    net = Net(seed)
    assert_gone(net, SHAPE, net.op("Sigmoid", net.norm(features(net, mixed(net, "x")), NODES)))


def test_both_in_one_net():
    net = Net(0)
    nodes = net.op("Sigmoid", net.norm(mixed(net, features(net, "x")), NODES))
    y = norm_of_features(net, features(net, mixed(net, nodes), 3))
    assert_gone(net, SHAPE, net.op("Sigmoid", y))


def test_both_stay_where_they_read_one_tensor():
    """One that stays takes no scale that differs along the other's axis."""
    net = Net(0)
    made = features(net, mixed(net, "x"))
    outputs = net.op("Sigmoid", net.norm(made, NODES)), net.op("Sigmoid", norm_of_features(net, made))
    assert not folded(net, SHAPE, *outputs).gone()


def test_what_one_batchnorm_needs_is_not_asked_of_ops_that_it_does_not_read():
    net = Net(0)
    first = net.op("Sigmoid", norm_of_features(net, mixed(net, features(net, "x"))))
    second = net.op("Sigmoid", net.norm(mixed(net, features(net, "x")), NODES))
    assert_gone(net, SHAPE, first, second)


def test_what_goes_without_is_not_given_up_for_as_many_others():
    """A · x · W is read by a BatchNorm of features and, by B · (A · x · W) · V, by one of nodes."""
    net = Net(0)
    made = mixed(net, features(net, "x"))
    first = net.op("Sigmoid", norm_of_features(net, made))
    second = net.op("Sigmoid", net.norm(mixed(net, features(net, made, 3)), NODES))
    assert folded(net, SHAPE, first, second).gone() == {"bn0"}


def test_it_stays_where_the_product_is_read_by_another():
    net = Net(0)
    made = features(net, mixed(net, "x"))
    y = net.op("Sigmoid", norm_of_features(net, made))
    assert_stays(net, SHAPE, y, net.op("Tanh", made), because="the sign of γ cannot be absorbed")


def test_two_readers_of_nodes_of_which_one_takes_features():
    """What the first reader passes on, the second needs alike for all nodes."""
    net = Net(0)
    nodes = mixed(net, "x")
    first = net.op("Sigmoid", net.op("MatMul", nodes, net.weight(4, 3)))
    second = net.op("Sigmoid", norm_of_features(net, features(net, nodes)))
    assert_gone(net, SHAPE, first, second)


@some
@given(seed=seeds)
def test_a_mean_over_neighbours_passes_the_shift_into_the_bias_before_it(seed):
    """Every row of A sums up to 1.1: b / 1.1 goes into the bias, and no Add is left."""
    net = Net(seed)
    y = norm_of_features(net, mixed(net, features(net, "x"), ring()))
    result = assert_gone(net, SHAPE, net.op("Sigmoid", y))
    assert result.ops == ["MatMul", "Add", "MatMul", "Transpose", "Sigmoid"]
    assert result.fates["bn0"].status == "folded"


def test_it_passes_the_shift_of_one_before_it():
    net = Net(0, 13)
    passed = net.op("Einsum", net.norm("x", 4), net.constant(ring()), equation="nctv,vw->nctw")
    assert assert_gone(net, ("rows", 4, 2, 6), net.conv(passed, 4, 3)).ops == ["Einsum", "Conv"]


ONE = np.diag([1.0, *[0.0] * (NODES - 1)])
UNEQUAL = {
    "rows that sum up to other numbers": ring() + 0.5 * ONE,
    "a difference, which sums up to 0": np.eye(NODES) - np.roll(np.eye(NODES), 1, 0),
    "both signs, which cancel to 0.01": 1.01 * np.eye(NODES) - np.roll(np.eye(NODES), 1, 0),
    "no neighbours at all": np.zeros((NODES, NODES)),
    "rows that differ by a float32's rounding": ring() + 1e-8 * ONE,
}


@pytest.mark.parametrize("adjacency", UNEQUAL.values(), ids=UNEQUAL)
def test_else_an_add_takes_the_shift(adjacency):
    net = Net(0)
    y = norm_of_features(net, mixed(net, features(net, "x"), adjacency))
    result = assert_gone(net, SHAPE, net.op("Sigmoid", y))
    assert result.ops == ["MatMul", "Add", "MatMul", "Add", "Transpose", "Sigmoid"]
    assert result.fates["bn0"].status == "reduced"


def test_an_add_takes_what_a_mean_over_neighbours_cannot_pass():
    """A Relu before it holds no shift."""
    net = Net(0)
    relu = net.op("Relu", features(net, "x"))
    y = net.norm(net.op("Transpose", mixed(net, relu, ring()), perm=[0, 2, 1]), 3, positive=True)
    result = assert_gone(net, SHAPE, net.op("Sigmoid", y))
    assert result.ops == ["MatMul", "Add", "Relu", "MatMul", "Add", "Transpose", "Sigmoid"]


def test_sets_of_channels_that_an_adjacency_sums_up_have_shifts_of_their_own():
    """ST-GCN: two sets, so no single number tells what is passed on; the Add takes it."""
    net = Net(0, 13)
    sets = net.reshape(net.conv("x", 4, 8), 0, 2, 4, 6, 6)
    weights = net.constant(np.stack([ring(), ring()]))
    y = net.norm(net.op("Einsum", sets, weights, equation="nkctv,kvw->nctw"), 4)
    result = assert_gone(net, ("rows", 4, 6, 6), net.op("Sigmoid", y))
    assert result.ops == ["Conv", "Reshape", "Einsum", "Add", "Sigmoid"]


@pytest.mark.parametrize("at", ["features", "nodes"])
def test_a_chain_of_one_factor(at):
    """2 · (A · x · W), or 2 · (A · x) beside B · (A · x · W): one scale for all nodes."""
    net = Net(0)
    nodes = mixed(net, "x")
    made = features(net, nodes, bias=False)
    outputs = [] if at == "features" else [net.op("Sigmoid", mixed(net, made))]
    scaled = (made, 3) if at == "features" else (nodes, 4)
    y = net.op("Mul", scaled[0], net.constant(np.full(scaled[1], 2.0)))
    unfolded = prepare(ir.from_proto(net.model(SHAPE, net.op("Sigmoid", y), *outputs)))
    graph, _, (chain,) = fold_per_channel(unfolded, *fold(unfolded))
    assert chain.status == "folded"
    assert difference(unfolded, graph, net.random.normal(size=(2, NODES, 4))) < EXACT
