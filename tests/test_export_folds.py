"""Each fold, over random graphs in float64: folded and unfolded differ by less than 1e-12, relatively.

In float64 a correct fold differs by about 1e-15 (rounding), a wrong one by far more: 1e-12 tells them apart.
"""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from export.batchnorm import Declined, Folded
from export.errors import FoldError
from export.folds import Site, account, fold
from export.graph import batchnorms, prepare
from export.reference import reference
from onnx_graphs import batchnorm, batchnorm_arrays, graph, value

EXACT = 1e-12
quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def fold_proto(proto: onnx.ModelProto) -> tuple[ir.Model, ir.Model, list[Site]]:
    unfolded = prepare(ir.from_proto(proto))
    folded, sites = fold(unfolded)
    return unfolded, folded, sites


def relative_difference(unfolded: ir.Model, folded: ir.Model, rows: np.ndarray) -> float:
    expected = reference(unfolded).run(None, {"x": rows})
    answers = reference(folded).run(None, {"x": rows})
    scale = max(float(np.abs(array).max(initial=1e-30)) for array in expected)
    return max(float(np.abs(a - e).max(initial=0)) for a, e in zip(answers, expected, strict=True)) / scale


def assert_folds_exactly(proto: onnx.ModelProto, rows: np.ndarray, num_batchnorms: int = 1) -> ir.Model:
    before = proto.SerializeToString(deterministic=True)
    unfolded, folded, sites = fold_proto(proto)
    assert proto.SerializeToString(deterministic=True) == before, "the input is left as it was"
    assert [type(site.outcome) for site in sites] == [Folded] * num_batchnorms, sites
    assert not list(batchnorms(folded))
    assert len(list(batchnorms(unfolded))) == num_batchnorms, "a fold returns a new graph"
    assert relative_difference(unfolded, folded, rows) < EXACT
    return folded


def assert_declined(proto: onnx.ModelProto, because: str) -> None:
    unfolded, folded, (site,) = fold_proto(proto)
    assert isinstance(site.outcome, Declined)
    assert because in site.outcome.reason
    assert len(list(batchnorms(folded))) == len(list(batchnorms(unfolded))) == 1


@quick
@given(
    seed=seeds,
    dims=st.integers(1, 3),
    groups=st.integers(1, 3),
    per_group=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.integers(1, 3),
    pad=st.integers(0, 1),
    bias=st.booleans(),
)
def test_conv_folds_in_any_dimension_and_grouping(seed, dims, groups, per_group, kernel, pad, bias):
    random = np.random.default_rng(seed)
    c_in, c_out = groups * per_group[0], groups * per_group[1]
    arrays = {
        "w": random.normal(size=(c_out, per_group[0], *[kernel] * dims)),
        **batchnorm_arrays(c_out, seed),
    }
    arrays |= {"b": random.normal(size=c_out)} if bias else {}
    nodes = [
        helper.make_node(
            "Conv",
            ["x", "w", *(["b"] if bias else [])],
            ["h"],
            name="conv",
            group=groups,
            pads=[pad] * 2 * dims,
        ),
        batchnorm("h", "y"),
    ]
    rows = random.normal(size=(2, c_in, *[4] * dims))
    assert_folds_exactly(graph(nodes, arrays, ["rows", c_in, *[4] * dims]), rows)


@quick
@given(
    seed=seeds,
    groups=st.integers(1, 3),
    per_group=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    bias=st.booleans(),
)
def test_conv_transpose_folds_grouped_too(seed, groups, per_group, stride, bias):
    random = np.random.default_rng(seed)
    c_in, c_out = groups * per_group[0], groups * per_group[1]
    arrays = {"w": random.normal(size=(c_in, per_group[1], 2, 2)), **batchnorm_arrays(c_out, seed)}
    arrays |= {"b": random.normal(size=c_out)} if bias else {}
    nodes = [
        helper.make_node(
            "ConvTranspose",
            ["x", "w", *(["b"] if bias else [])],
            ["h"],
            name="up",
            group=groups,
            strides=[stride] * 2,
        ),
        batchnorm("h", "y"),
    ]
    assert_folds_exactly(graph(nodes, arrays, ["rows", c_in, 3, 3]), random.normal(size=(2, c_in, 3, 3)))


@quick
@given(
    seed=seeds,
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    transposed=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5]),
    beta=st.sampled_from([1.0, -2.0]),
    bias=st.sampled_from([None, "vector", "row", "scalar"]),
)
def test_gemm_folds_with_every_attribute(seed, sizes, transposed, alpha, beta, bias):
    random = np.random.default_rng(seed)
    inputs, outputs = sizes
    shapes = {"vector": (outputs,), "row": (1, outputs), "scalar": (1,)}
    arrays = {
        "w": random.normal(size=(outputs, inputs) if transposed else (inputs, outputs)),
        **batchnorm_arrays(outputs, seed),
    }
    arrays |= {"b": random.normal(size=shapes[bias])} if bias else {}
    gemm = helper.make_node(
        "Gemm",
        ["x", "w", *(["b"] if bias else [])],
        ["h"],
        name="gemm",
        transB=int(transposed),
        alpha=alpha,
        beta=beta,
    )
    proto = graph([gemm, batchnorm("h", "y")], arrays, ["rows", inputs])
    assert_folds_exactly(proto, random.normal(size=(3, inputs)))


@quick
@given(
    seed=seeds, sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)), bias=st.sampled_from([None, "r", "l"])
)
def test_matmul_folds_with_and_without_add(seed, sizes, bias):
    random = np.random.default_rng(seed)
    inputs, outputs = sizes
    arrays = {"w": random.normal(size=sizes), **batchnorm_arrays(outputs, seed)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h" if bias is None else "p"], name="matmul")]
    if bias is not None:
        arrays["b"] = random.normal(size=outputs)
        nodes.append(helper.make_node("Add", ["p", "b"] if bias == "r" else ["b", "p"], ["h"], name="add"))
    folded = assert_folds_exactly(
        graph([*nodes, batchnorm("h", "y")], arrays, ["rows", inputs]), random.normal(size=(3, inputs))
    )
    assert [node.op_type for node in folded.graph] == ["Gemm"], "no op is added, the Add goes too"


@quick
@given(seed=seeds)
def test_a_chain_of_batchnorms_folds_one_after_the_other(seed):
    random = np.random.default_rng(seed)
    arrays = {"w": random.normal(size=(4, 2, 3, 3)), **batchnorm_arrays(4, seed)}
    second = helper.make_node(
        "BatchNormalization", ["h2", "bn.beta", "bn.gamma", "bn.mean", "bn.var"], ["y"], name="bn2"
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        batchnorm("h", "h1", epsilon=1e-2),
        helper.make_node("Identity", ["h1"], ["h2"], name="same"),
        second,
    ]
    assert_folds_exactly(graph(nodes, arrays, ["rows", 2, 5, 5]), random.normal(size=(2, 2, 5, 5)), 2)


def conv_then(
    *nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",), **arrays: np.ndarray
) -> onnx.ModelProto:
    weights = {"w": np.random.default_rng(0).normal(size=(4, 4, 1, 1)), **batchnorm_arrays(4, 0), **arrays}
    conv = helper.make_node("Conv", ["x", "w"], ["h"], name="conv")
    return graph([conv, *nodes], weights, ["rows", 4, 6, 6], outputs)


def test_declined_where_the_output_has_another_reader():
    relu = helper.make_node("Relu", ["h"], ["z"], name="relu")
    assert_declined(
        conv_then(batchnorm("h", "y"), relu, outputs=("y", "z")), "the graph's output 'z' is what it is"
    )


def test_declined_where_the_output_is_the_graphs_too():
    assert_declined(
        conv_then(batchnorm("h", "y"), outputs=("y", "h")), "the graph's output 'h' is what it is"
    )


def test_a_weight_with_another_reader_is_copied():
    other = helper.make_node("Conv", ["x", "w"], ["z"], name="other")
    proto = conv_then(batchnorm("h", "y"), other, outputs=("y", "z"))
    rows = np.random.default_rng(1).normal(size=(2, 4, 6, 6))
    assert_folds_exactly(proto, rows, 1)
    _, _, (site,) = fold_proto(proto)
    assert isinstance(site.outcome, Folded)
    assert site.outcome.how.endswith("its weights were shared: a copy of 128 bytes")


@pytest.mark.parametrize(
    ("between", "because"),
    [
        ("Relu", "the sign of γ cannot move on in 1 of 4 channels: the graph's output 'y' is what it is; "),
        ("Sigmoid", "Sigmoid 'middle' gives values as they are"),
        ("MaxPool", "the sign of γ cannot move on in 1 of 4 channels: "),
    ],
)
def test_declined_behind_an_op_that_it_cannot_pass(between, because):
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


def test_a_subgraph_is_left_alone_and_counted():
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
    assert_declined(graph(nodes, arrays, ["rows", 4, 6, 6]), "inside a subgraph")


def test_the_account_has_an_entry_for_every_batchnorm():
    relu = helper.make_node("Relu", ["h1"], ["r"], name="relu")
    second = helper.make_node(
        "BatchNormalization", ["r", "bn.gamma", "bn.beta", "bn.mean", "bn.var"], ["y"], name="bn2"
    )
    _, _, sites = fold_proto(conv_then(batchnorm("h", "h1"), relu, second))
    facts = account(sites)
    assert (facts.found, facts.folded, facts.declined) == (2, 1, 1)
    assert [(site.name, site.status) for site in facts.sites] == [("bn", "folded"), ("bn2", "declined")]
    assert sites[0].health is not None
    assert sites[0].health.channels == 4
