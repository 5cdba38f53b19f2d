"""Parallel branches, merged: the same function in float64, with fewer nodes."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from export.fold.parallel import merge_parallel
from export.fold.stages import fold
from export.graph.file import serialize
from export.graph.prepare import prepare, tidy
from onnx_graphs import batchnorm, batchnorm_arrays, graph
from parallel_kit import (
    ARRAYS,
    IMAGE,
    ONE,
    ROWS,
    THREE,
    Arrays,
    add,
    assert_left,
    assert_merges,
    assert_same_function,
    conv,
    conv_arrays,
    kernel,
    merge,
    ops,
    pair,
)

quick = settings(max_examples=60)


@dataclass
class Sum:
    proto: onnx.ModelProto
    rows: np.ndarray
    left: dict[str, int]


@st.composite
def sums(draw, *, identity: bool) -> Sum:
    """Branches on x that one Conv covers, and up to two other terms on z = Relu(x), in random Adds."""
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    c_in = groups * draw(st.integers(1, 3))
    c_out = c_in if identity else groups * draw(st.integers(1, 3))
    size = draw(st.integers(4, 5))

    axes = []  # of the largest: kernel, stride, dilation, begin, end
    for _ in range(dims):
        kernel, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2 if size == 5 else 1))
        if identity:
            tap = draw(st.integers(0, kernel - 1))
            axes.append((kernel, 1, dilation, tap * dilation, (kernel - 1 - tap) * dilation))
        else:
            axes.append(
                (kernel, draw(st.integers(1, 2)), dilation, *draw(st.tuples(*[st.integers(0, 4)] * 2)))
            )

    def branch(name: str, source: str, *, smaller: bool) -> tuple[list[onnx.NodeProto], Arrays]:
        placed = []
        for kernel, stride, dilation, begin, end in axes:
            fits = [
                (k, stride, dilation, begin - o * dilation, end - (kernel - k - o) * dilation)
                for k in range(1, kernel + 1)
                for o in range(kernel - k + 1)
                if begin >= o * dilation and end >= (kernel - k - o) * dilation
            ]
            placed.append(draw(st.sampled_from(fits)) if smaller else (kernel, stride, dilation, begin, end))
        kernels, strides, dilations, begins, ends = zip(*placed, strict=True)
        if draw(st.booleans()):  # a kernel of one place has no dilation
            dilations = tuple(1 if k == 1 else d for k, d in zip(kernels, dilations, strict=True))
        attributes = {"group": groups, "strides": strides, "dilations": dilations, "kernel_shape": kernels}
        if any(begins + ends) or draw(st.booleans()):
            attributes["pads"] = begins + ends
        elif draw(st.booleans()):
            attributes["auto_pad"] = "VALID"
        if groups == 1 and draw(st.booleans()):
            del attributes["group"]
        for name_of_ones in ("strides", "dilations"):
            if set(attributes[name_of_ones]) == {1} and draw(st.booleans()):
                del attributes[name_of_ones]
        arrays = conv_arrays(name, (c_out, c_in // groups, *kernels), seed)
        node = conv(name, source, bias=draw(st.booleans()), **attributes)
        return [node], {key: arrays[key] for key in node.input[1:]}

    seed = draw(st.integers(0, 2**32 - 1))
    terms = {"large": branch("large", "x", smaller=False)}
    for index in range(draw(st.integers(0 if identity else 1, 3))):
        terms[f"small{index}"] = branch(f"small{index}", "x", smaller=True)
    for index in range(draw(st.integers(1, 2)) if identity else 0):
        names = {f"bn{index}.{key[3:]}": array for key, array in batchnorm_arrays(c_in, seed + index).items()}
        node = helper.make_node("BatchNormalization", ["x", *names], [f"id{index}"], name=f"bn{index}")
        terms[f"id{index}"] = [node], names
    others = draw(st.integers(0, 2))
    for index in range(others):
        terms[f"other{index}"] = branch(f"other{index}", "z", smaller=False)
    residual = identity and draw(st.booleans())
    if residual:
        terms["x"] = [], {}
    left = {"Conv": 1 + min(others, 1), "Add": min(others, 1) + residual, "Relu": bool(others)}

    tail = draw(st.booleans())
    nodes = [helper.make_node("Relu", ["x"], ["z"], name="relu")] if others else []
    pool = draw(st.permutations(list(terms)))
    while len(pool) > 1:  # each branch comes just before the Add that reads it
        operands = [pool.pop(draw(st.integers(0, len(pool) - 1))) for _ in range(2)]
        total = f"sum{len(pool)}" if pool or tail else "y"
        for operand in operands:
            nodes += terms[operand][0] if operand in terms else []
        nodes.append(add(*operands, total))
        pool.append(total)
    if tail:
        nodes.append(helper.make_node("Neg", pool, ["y"], name="neg"))
        left["Neg"] = 1
    arrays = {name: array for _, initialisers in terms.values() for name, array in initialisers.items()}
    shape = [c_in, *[size] * dims]
    rows = np.random.default_rng(seed).normal(size=(2, *shape))
    return Sum(
        graph(nodes, arrays, ["rows", *shape]), rows, {op: int(count) for op, count in left.items() if count}
    )


@quick
@given(sums(identity=False))
def test_convs_on_one_tensor_become_one(case):
    assert_merges(case.proto, case.rows, case.left)


@quick
@given(sums(identity=True))
def test_batchnorms_join_as_identities(case):
    assert_merges(case.proto, case.rows, case.left)


@pytest.mark.parametrize("other", [ONE, batchnorm("x", "identity")], ids=["1x1", "BatchNorm"])
@pytest.mark.parametrize("swapped", [False, True])
def test_the_sound_pair_merges(other, swapped):
    """What every negative control below is one fault away from."""
    branches = (other, THREE) if swapped else (THREE, other)
    merged = assert_merges(pair(*branches), ROWS, {"Conv": 1})
    assert merged.graph.outputs[0].name == "y"


def test_the_account_says_where_the_batchnorm_went():
    _, _, gone = merge(pair(THREE, batchnorm("x", "identity")))
    assert {node.name: folded.how for node, folded in gone.items()} == {
        "bn": "into the weights of Conv 'conv_three' beside it, as an identity"
    }


@pytest.mark.parametrize("reader", [None, "Relu"], ids=["the graph", "Relu"])
def test_a_sum_that_somebody_else_reads_stays_a_sum(reader):
    """s = conv3×3(x) + conv(z) and y = s + conv1×1(x): merging across s would change s."""
    nodes = [
        helper.make_node("Relu", ["x"], ["z"], name="relu"),
        THREE,
        conv("other", "z"),
        ONE,
        add("three", "other", "s"),
        add("s", "one"),
    ]
    nodes += [helper.make_node(reader, ["s"], ["seen"], name="seen")] if reader else []
    arrays = ARRAYS | kernel("other", 1, 1)
    assert_left(graph(nodes, arrays, IMAGE, ("y", "seen" if reader else "s")))


def test_a_sum_that_somebody_else_reads_merges_for_itself():
    nodes = [THREE, ONE, batchnorm("x", "identity"), add("three", "one", "s"), add("s", "identity")]
    left = {"Conv": 1, "BatchNormalization": 1, "Add": 1}
    merged = assert_merges(graph(nodes, ARRAYS, IMAGE, ("y", "s")), ROWS, left)
    assert [output.name for output in merged.graph.outputs] == ["y", "s"]


def test_what_each_of_two_kernels_covers_still_merges():
    arrays = kernel("wide", 1, 7) | kernel("tall", 7, 1)
    nodes = [
        conv("wide", pads=[0, 3, 0, 3]),
        conv("tall", pads=[3, 0, 3, 0]),
        ONE,
        batchnorm("x", "identity"),
        add("wide", "tall", "a"),
        add("one", "identity", "b"),
        add("a", "b"),
    ]
    assert_merges(graph(nodes, ARRAYS | arrays, IMAGE), ROWS, {"Conv": 2, "Add": 1})


def test_same_padding_merges_only_with_its_like():
    arrays = kernel("like", 3, 3)
    for kind, other in (("SAME_UPPER", "SAME_LOWER"), ("SAME_LOWER", "SAME_UPPER")):
        for strides in ([1, 1], [2, 2]):
            same = conv("three", auto_pad=kind, strides=strides)
            like = pair(same, conv("like", auto_pad=kind, strides=strides), arrays=arrays)
            assert_merges(like, ROWS, {"Conv": 1})
            assert_left(pair(same, conv("like", auto_pad=other, strides=strides), arrays=arrays))
            assert_left(pair(same, conv("one", auto_pad=kind, strides=strides)))
        wide = conv("like", auto_pad=kind, dilations=[2, 2])
        assert_left(pair(conv("three", auto_pad=kind), wide, arrays=arrays))
        assert_left(pair(conv("three", auto_pad=kind), batchnorm("x", "identity")))


def test_float32_is_computed_in_float64_and_cast_once():
    _, merged, _ = merge(pair(THREE, ONE, dtype=np.float32))
    (node,) = merged.graph
    narrow = {name: array.astype(np.float32).astype(np.float64) for name, array in ARRAYS.items()}
    weight = narrow["three.w"].copy()
    weight[:, :, 1:2, 1:2] += narrow["one.w"]
    expected = [weight.astype(np.float32), (narrow["three.b"] + narrow["one.b"]).astype(np.float32)]
    for initialiser, array in zip(node.inputs[1:], expected, strict=True):
        assert initialiser.const_value.dtype == ir.DataType.FLOAT
        np.testing.assert_array_equal(initialiser.const_value.numpy(), array)


def test_a_repvgg_block_becomes_one_conv():
    """BN(conv3×3(x)) + BN(conv1×1(x)) + BN(x), then Relu; first the usual fold, then the merge."""
    nodes, arrays = [conv("three", pads=[1] * 4, bias=False), conv("one", bias=False)], dict(ARRAYS)
    for index, source in enumerate(("three", "one", "x")):
        names = {f"bn{index}.{key[3:]}": array for key, array in batchnorm_arrays(4, index).items()}
        nodes.append(
            helper.make_node("BatchNormalization", [source, *names], [f"b{index}"], name=f"bn{index}")
        )
        arrays |= names
    nodes += [add("b0", "b1", "s"), add("s", "b2", "t"), helper.make_node("Relu", ["t"], ["y"], name="relu")]
    unfolded = prepare(ir.from_proto(graph(nodes, arrays, IMAGE)))
    folded, _ = fold(unfolded)
    merge_parallel(folded.graph)
    assert ops(tidy(folded)) == {"Conv": 1, "Relu": 1}
    assert_same_function(unfolded, folded, ROWS)


def test_a_merge_makes_way_for_the_batchnorm_after_the_sum():
    """BN(conv3×3(x) + conv1×1(x)): an Add has no weights to take the scale, the merged Conv has."""
    nodes = [THREE, ONE, add("three", "one", "s"), batchnorm("s", "y")]
    unfolded = prepare(ir.from_proto(graph(nodes, ARRAYS, IMAGE)))
    merged = unfolded.clone()
    assert merge_parallel(merged.graph) == {}
    folded, _ = fold(tidy(merged))
    assert ops(folded) == {"Conv": 1}
    assert_same_function(unfolded, folded, ROWS)


def test_a_second_merge_finds_nothing_more():
    nodes = [THREE, ONE, batchnorm("x", "identity"), add("three", "one", "s"), add("s", "identity")]
    _, merged, gone = merge(graph(nodes, ARRAYS, IMAGE))
    before = serialize(merged)
    assert len(gone) == 1
    assert merge_parallel(merged.graph) == {}
    assert serialize(merged) == before
