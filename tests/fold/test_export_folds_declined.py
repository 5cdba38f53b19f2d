"""Where the usual fold declines, and says why; what it leaves alone."""

import numpy as np
import pytest
from onnx import helper

from export.errors import FoldError
from export.fold.account import account
from folds_kit import assert_declined, assert_folds_exactly, conv_then, fold_proto
from onnx_graphs import batchnorm, batchnorm_arrays, graph, value


def test_declined_where_the_output_has_another_reader():
    relu = helper.make_node("Relu", ["h"], ["z"], name="relu")
    assert_declined(
        conv_then(batchnorm("h", "y"), relu, outputs=("y", "z")), "the graph's output 'z' must stay the same"
    )


def test_declined_where_the_output_is_the_graphs_too():
    assert_declined(
        conv_then(batchnorm("h", "y"), outputs=("y", "h")), "the graph's output 'h' must stay the same"
    )


def test_a_weight_with_another_reader_is_copied():
    other = helper.make_node("Conv", ["x", "w"], ["z"], name="other")
    proto = conv_then(batchnorm("h", "y"), other, outputs=("y", "z"))
    rows = np.random.default_rng(1).normal(size=(2, 4, 6, 6))
    assert_folds_exactly(proto, rows, 1)
    _, _, (site,) = fold_proto(proto)
    assert site.status == "folded"
    assert site.how.endswith("its weights were shared: a copy of 128 bytes")


@pytest.mark.parametrize(
    ("between", "because"),
    [
        (
            "Relu",
            "the sign of γ cannot be absorbed in 1 of 4 channels: "
            "the graph's output 'y' must stay the same; ",
        ),
        ("Sigmoid", "Sigmoid 'middle' cannot absorb a scale or shift"),
        ("MaxPool", "the sign of γ cannot be absorbed in 1 of 4 channels: "),
    ],
)
def test_declined_after_an_op_that_it_cannot_pass(between, because):
    attributes = {"kernel_shape": [2, 2]} if between == "MaxPool" else {}
    middle = helper.make_node(between, ["h"], ["m"], name="middle", **attributes)
    assert_declined(conv_then(middle, batchnorm("m", "y")), because)


def test_declined_as_the_first_op():
    proto = graph([batchnorm("x", "y")], batchnorm_arrays(4, 0), ["rows", 4, 3])
    assert_declined(proto, "it reads the graph's input")


def test_declined_in_training_mode():
    assert_declined(conv_then(batchnorm("h", "y", training_mode=1)), "training_mode = 1")


def test_declined_where_the_axis_differs():
    """Linear → BatchNorm1d on (N, C, L): the features are on axis 2, the BatchNorm scales axis 1."""
    arrays = {"w": np.random.default_rng(0).normal(size=(5, 4)), **batchnorm_arrays(4, 0)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="matmul"), batchnorm("h", "y")]
    assert_declined(graph(nodes, arrays, ["rows", 4, 5]), "features on axis 2, the BatchNorm scales axis 1")


def test_declined_where_the_weights_are_computed():
    nodes = [helper.make_node("Conv", ["x", "v"], ["h"], name="conv"), batchnorm("h", "y")]
    dynamic = value("v", [4, 4, 1, 1])
    assert_declined(
        graph(nodes, batchnorm_arrays(4, 0), ["rows", 4, 3, 3], extra_inputs=[dynamic]),
        "computed at run time",
    )


def test_declined_where_the_statistics_are_computed():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        helper.make_node("BatchNormalization", ["h", "bn.gamma", "bn.beta", "m", "bn.var"], ["y"], name="bn"),
    ]
    arrays = {"w": np.ones((4, 4, 1, 1)), **batchnorm_arrays(4, 0)}
    del arrays["bn.mean"]
    assert_declined(
        graph(nodes, arrays, ["rows", 4, 3, 3], extra_inputs=[value("m", [4])]), "μ computed at run time"
    )


def test_declined_where_float16_would_overflow():
    arrays = {"w": np.full((4, 4, 1, 1), 300.0), **batchnorm_arrays(4, 0, variance=0.0)}
    arrays["bn.gamma"] = np.full(4, 30.0)
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], name="conv"), batchnorm("h", "y", epsilon=1e-3)]
    proto = graph(nodes, arrays, ["rows", 4, 3, 3], dtype=np.float16)
    assert_declined(proto, "overflow float16")


@pytest.mark.parametrize(("name", "broken"), [("bn.gamma", np.nan), ("bn.mean", np.inf), ("bn.var", -1.0)])
def test_broken_statistics_are_an_error_that_names_the_layer(name, broken):
    arrays = {"w": np.ones((4, 4, 1, 1)), **batchnorm_arrays(4, 0)}
    arrays[name] = np.array([1.0, broken, 1.0, 1.0])
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], name="conv"), batchnorm("h", "y")]
    with pytest.raises(FoldError, match="BatchNorm 'bn'"):
        fold_proto(graph(nodes, arrays, ["rows", 4, 3, 3]))


def test_a_batchnorm_in_a_branch_that_reads_what_the_other_branch_reads():
    branch = helper.make_graph([batchnorm("h", "t")], "then", [], [value("t", ["rows", 4, 6, 6])])
    other = helper.make_graph(
        [helper.make_node("Neg", ["h"], ["e"])], "else", [], [value("e", ["rows", 4, 6, 6])]
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other, name="if"),
    ]
    arrays = {"w": np.ones((4, 4, 1, 1)), "zero": np.array(0.0), **batchnorm_arrays(4, 0)}
    assert_declined(
        graph(nodes, arrays, ["rows", 4, 6, 6]), "Conv 'conv' before it belongs to the graph around its own"
    )


def test_the_account_has_an_entry_for_every_batchnorm():
    relu = helper.make_node("Relu", ["h1"], ["r"], name="relu")
    second = helper.make_node(
        "BatchNormalization", ["r", "bn.gamma", "bn.beta", "bn.mean", "bn.var"], ["y"], name="bn2"
    )
    _, _, sites = fold_proto(conv_then(batchnorm("h", "h1"), relu, second))
    facts = account(sites)
    assert (facts.found, facts.folded, facts.declined) == (2, 1, 1)
    assert [(site.name, site.status) for site in facts.sites] == [("bn", "folded"), ("bn2", "declined")]
    assert sites[0].channels == 4
