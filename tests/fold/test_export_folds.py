"""Each fold, over random graphs in float64: folded and unfolded differ by less than 1e-12, relatively.

In float64 a correct fold differs by about 1e-15 (rounding), a wrong one by far more: 1e-12 tells them apart.
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from folds_kit import assert_folds_exactly
from onnx_graphs import batchnorm, batchnorm_arrays, graph

quick = settings(max_examples=25)
seeds = st.integers(0, 2**32 - 1)


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
