"""The parallel merge over random sums of branches in float64, and every sum that must be left as it is.

A right merge differs by about 1e-15, a wrong one by far more: 1e-12 tells them apart.  Each negative
control is a pair of branches with one fault; the same pair without it merges.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from export.batchnorm import Folded
from export.folds import fold
from export.folds.parallel import merge_parallel
from export.graph import batchnorms, prepare, serialize, tidy
from export.truth import graph_evaluator
from onnx_graphs import batchnorm, batchnorm_arrays, graph, value

EXACT = 1e-12
quick = settings(max_examples=60, deadline=None)
Arrays = dict[str, np.ndarray]


def merge(proto: onnx.ModelProto) -> tuple[ir.Model, ir.Model, dict[ir.Node, Folded]]:
    unmerged = prepare(ir.from_proto(proto))
    merged = unmerged.clone()
    gone = merge_parallel(merged.graph)
    return unmerged, tidy(merged), gone


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def assert_same_function(unmerged: ir.Model, merged: ir.Model, rows: np.ndarray) -> None:
    onnx.checker.check_model(ir.to_proto(merged), full_check=True)
    expected = graph_evaluator(unmerged)({"x": rows})
    answers = graph_evaluator(merged)({"x": rows})
    assert list(answers) == list(expected), "the outputs keep their names"
    for name, array in expected.items():
        assert answers[name].shape == array.shape
        assert np.abs(answers[name] - array).max() < EXACT * np.abs(array).max(initial=1e-30)


def assert_merges(proto: onnx.ModelProto, rows: np.ndarray, left: dict[str, int]) -> ir.Model:
    unmerged, merged, gone = merge(proto)
    assert ops(merged) == Counter(left)
    before, after = ({node.name for node in batchnorms(model)} for model in (unmerged, merged))
    assert {node.name for node in gone} == before - after
    assert_same_function(unmerged, merged, rows)
    return merged


def assert_left(proto: onnx.ModelProto) -> None:
    model = prepare(ir.from_proto(proto))
    sizes = {
        given.name: [size if isinstance(size, int) else 7 for size in given.shape]
        for given in model.graph.inputs
    }
    graph_evaluator(model)({name: np.ones(shape) for name, shape in sizes.items()})  # it is a graph that runs
    before = serialize(model)
    assert merge_parallel(model.graph) == {}
    assert serialize(model) == before, "declined, so nothing may have changed"


def conv(
    name: str, source: str = "x", *, weight: str = "", bias: bool = True, **attributes
) -> onnx.NodeProto:
    inputs = [source, weight or f"{name}.w", *([f"{name}.b"] if bias else [])]
    return helper.make_node("Conv", inputs, [name], name=f"conv_{name}", **attributes)


def conv_arrays(name: str, shape: tuple[int, ...], seed: int) -> Arrays:
    random = np.random.default_rng([seed, *name.encode()])
    return {f"{name}.w": random.normal(size=shape), f"{name}.b": random.normal(size=shape[0])}


def add(left: str, right: str, output: str = "y") -> onnx.NodeProto:
    return helper.make_node("Add", [left, right], [output], name=f"add_{output}")


# --- random sums


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


# --- one pair of branches at a time

IMAGE = ["rows", 4, 7, 7]
THREE = conv("three", pads=[1] * 4)
ONE = conv("one")
ARRAYS = {
    **conv_arrays("three", (4, 4, 3, 3), 0),
    **conv_arrays("one", (4, 4, 1, 1), 0),
    **batchnorm_arrays(4, 0),
}
ROWS = np.random.default_rng(0).normal(size=(2, 4, 7, 7))


def pair(
    left: onnx.NodeProto,
    right: onnx.NodeProto,
    *more: onnx.NodeProto,
    arrays: Arrays | None = None,
    outputs: tuple[str, ...] = ("y",),
    shape: list[int | str] = IMAGE,
    **options,
) -> onnx.ModelProto:
    nodes = [left, right, add(left.output[0], right.output[0]), *more]
    return graph(nodes, {**ARRAYS, **(arrays or {})}, shape, outputs, **options)


def kernel(name: str, *spatial: int, outputs: int = 4, inputs: int = 4) -> Arrays:
    return conv_arrays(name, (outputs, inputs, *spatial), 1)


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


def test_left_where_a_branch_has_another_reader():
    for shared in (THREE, ONE):
        relu = helper.make_node("Relu", shared.output, ["z"], name="relu")
        assert_left(pair(THREE, ONE, relu, outputs=("y", "z")))
    identity = batchnorm("x", "identity")
    relu = helper.make_node("Relu", ["identity"], ["z"], name="relu")
    assert_left(pair(THREE, identity, relu, outputs=("y", "z")))


@pytest.mark.parametrize("seen", ["three", "one"])
def test_left_where_a_branch_is_the_graphs_output(seen):
    assert_left(pair(THREE, ONE, outputs=("y", seen)))


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


def test_left_where_the_batchs_statistics_are_outputs():
    """Before opset 14 a BatchNormalization in training form says so only by its outputs."""
    identity = batchnorm("x", "identity")
    identity.output.extend(["mean", "var"])
    proto = pair(THREE, identity, outputs=("y", "mean", "var"), opset=9)
    proto.graph.value_info.append(value("identity", IMAGE))
    model = prepare(ir.from_proto(proto))
    before = serialize(model)
    assert merge_parallel(model.graph) == {}
    assert serialize(model) == before


def test_left_where_one_branch_is_both_operands():
    assert_left(graph([THREE, add("three", "three")], ARRAYS, IMAGE))


def test_left_where_the_tensors_differ():
    relu = helper.make_node("Relu", ["x"], ["z"], name="relu")
    for other in (conv("one", "z"), batchnorm("z", "identity")):
        assert_left(graph([relu, THREE, other, add("three", other.output[0])], ARRAYS, IMAGE))


def test_left_where_the_strides_differ():
    """7 → 2 places both ways, but the second is place 2 or place 3."""
    arrays = kernel("four", 4, 4) | kernel("like", 4, 4)
    four = conv("four", strides=[2, 2])
    assert_left(pair(four, conv("like", strides=[3, 3]), arrays=arrays))
    assert_merges(pair(four, conv("like", strides=[2, 2]), arrays=arrays), ROWS, {"Conv": 1})


def test_left_where_the_dilations_differ():
    arrays = kernel("wide", 3, 3)
    assert_left(pair(THREE, conv("wide", dilations=[2, 2], pads=[2] * 4), arrays=arrays))
    arrays |= kernel("five", 5, 5)
    assert_left(pair(conv("five", pads=[2] * 4), conv("wide", dilations=[2, 2], pads=[2] * 4), arrays=arrays))
    arrays = kernel("two", 2, 2) | kernel("like", 2, 2)  # 7 → 3 places both ways, by rounding
    two = conv("two", strides=[2, 2])
    assert_left(pair(two, conv("like", strides=[2, 2], dilations=[2, 2]), arrays=arrays))


def test_left_where_neither_kernel_covers_the_other():
    """1×7 + 7×1 would be 7×7: 49 products a place instead of 14."""
    arrays = kernel("wide", 1, 7) | kernel("tall", 7, 1)
    assert_left(pair(conv("wide", pads=[0, 3, 0, 3]), conv("tall", pads=[3, 0, 3, 0]), arrays=arrays))


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


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ([0, 0, 2, 2], [1, 1, 0, 0]),  # it would begin at −1
        ([2, 2, 0, 0], [0, 0, 1, 1]),  # it would end at 4 of 3
        ([1, 0, 1, 2], [1, 1, 0, 0]),  # only the second dimension is off
    ],
)
def test_left_where_the_pads_do_not_line_up(large, small):
    arrays = kernel("two", 2, 2)
    assert_left(pair(conv("three", pads=large), conv("two", pads=small), arrays=arrays))


def test_left_where_the_sizes_agree_only_by_rounding():
    """Stride 2: both make 4 places of 7, but of 6 one would make 3 and the other 4."""
    strided = conv("three", pads=[1] * 4, strides=[2, 2])
    assert_left(pair(strided, conv("one", pads=[0, 0, 1, 1], strides=[2, 2])))
    sound = pair(strided, conv("one", strides=[2, 2]))
    assert_merges(sound, ROWS, {"Conv": 1})


def test_left_where_the_identity_would_fall_between_the_taps():
    """Two taps with dilation 2 and pads 1 look at places −1 and +1, never at 0."""
    arrays = kernel("two", 2, 2)
    apart = conv("two", dilations=[2, 2], pads=[1] * 4)
    assert_left(pair(apart, batchnorm("x", "identity"), arrays=arrays))
    assert_left(pair(apart, ONE, arrays=arrays))


def test_left_where_an_identity_meets_a_stride():
    """Seven places in, seven out, but at every second place of a wide border."""
    arrays = kernel("nine", 9, 9)
    strided = conv("nine", strides=[2, 2], pads=[7] * 4)
    assert_left(pair(strided, batchnorm("x", "identity"), arrays=arrays))


def test_left_where_the_channels_are_broadcast():
    """BN(x) of one channel, or a Conv to one channel, added to four."""
    one_channel = ["rows", 1, 7, 7]
    arrays = kernel("three", 3, 3, inputs=1) | batchnorm_arrays(1, 0)
    assert_left(pair(THREE, batchnorm("x", "identity"), arrays=arrays, shape=one_channel))
    assert_left(pair(THREE, ONE, arrays=kernel("one", 1, 1, outputs=1)))


def test_left_where_space_is_broadcast():
    """A kernel as large as the picture: one place, added to all."""
    arrays = kernel("seven", 7, 7)
    assert_left(pair(conv("seven"), batchnorm("x", "identity"), arrays=arrays))
    assert_left(pair(conv("seven"), ONE, arrays=arrays))


def test_left_where_the_shape_is_unknown():
    assert_left(pair(THREE, ONE, shape=["rows", 4, "height", 7]))


def test_left_where_an_add_between_them_is_a_late_bias():
    arrays = {"late": np.ones((1, 4, 7, 7))}
    nodes = [THREE, ONE, add("three", "late", "s"), add("s", "one")]
    assert_left(graph(nodes, ARRAYS | arrays, [1, 4, 7, 7]))


@pytest.mark.parametrize(("rows", "axis"), [("rows", 1), ("rows", 0), (2, 0)])
def test_left_where_an_add_between_them_broadcasts(rows, axis):
    mean = helper.make_node("ReduceMean", ["x", "axes"], ["mean"], name="mean")
    nodes = [THREE, ONE, mean, add("three", "mean", "s"), add("s", "one")]
    assert_left(graph(nodes, ARRAYS | {"axes": np.array([axis])}, [rows, 4, 7, 7]))


@pytest.mark.parametrize("name", ["three", "one"])
def test_left_where_a_weight_is_shared(name):
    node = {"three": THREE, "one": ONE}[name]
    twin = helper.make_node("Conv", [*node.input[:2]], ["z"], name="twin")
    assert_left(pair(THREE, ONE, twin, outputs=("y", "z")))


def test_left_where_both_branches_share_their_weight():
    assert_left(pair(THREE, conv("one", weight="three.w", pads=[1] * 4)))


@pytest.mark.parametrize("index", [1, 2], ids=["weight", "bias"])
def test_left_where_a_convs_constants_are_computed(index):
    node = conv("one")
    node.input[index] = "computed"
    given = value("computed", [4, 4, 1, 1] if index == 1 else [4])
    assert_left(pair(THREE, node, extra_inputs=[given]))


def test_left_in_training_mode():
    assert_left(pair(THREE, batchnorm("x", "identity", training_mode=1)))


def test_left_where_only_batchnorms_are_summed():
    second = helper.make_node("BatchNormalization", [*batchnorm("x", "").input], ["second"], name="bn2")
    assert_left(pair(batchnorm("x", "identity"), second))


def test_left_where_a_plain_residual_is_all_there_is():
    nodes = [THREE, add("three", "x")]
    assert_left(graph(nodes, ARRAYS, IMAGE))


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


def test_left_where_float16_would_overflow():
    arrays = {"three.w": np.full((4, 4, 3, 3), 4e4), "one.w": np.full((4, 4, 1, 1), 2e4)}
    _, merged, _ = merge(pair(THREE, ONE, arrays=arrays, dtype=np.float16))
    assert ops(merged) == {"Conv": 1}
    arrays["one.w"] *= 2
    assert_left(pair(THREE, ONE, arrays=arrays, dtype=np.float16))


def test_left_in_mixed_precision():
    """float16 rows and weights, float32 statistics: allowed in a BatchNormalization since opset 15."""
    proto = pair(THREE, batchnorm("x", "identity"), dtype=np.float16)
    _, merged, _ = merge(proto)
    assert ops(merged) == {"Conv": 1}
    for tensor in proto.graph.initializer:
        if tensor.name in ("bn.mean", "bn.var"):
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(ARRAYS[tensor.name].astype(np.float32), name=tensor.name)
            )
    assert_left(proto)


# --- whole blocks


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


def test_a_merge_makes_way_for_the_batchnorm_behind_the_sum():
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
