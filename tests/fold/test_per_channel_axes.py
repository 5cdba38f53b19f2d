"""Per-channel Mul and Add on other axes than 1, after ops that are not linear, or as large as all rows."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.fold.proved import FoldOptions, fold_once
from export.graph.prepare import prepare
from file_kit import model, node, norm, norm_arrays, weights
from folds_kit import EXACT, exact, relative_difference

CONV, DENSE = weights(4, 3, 3, 3), weights(4, 5)
PAIR = {"g": np.abs(weights(4, 1).reshape(4)) + 0.5, "b": weights(4, 1, seed=1).reshape(4)}
LAST = [node("Mul", "r g", "m"), node("Add", "m b", "n")]
TO_LAST, TO_FIRST = {"perm": [0, 2, 3, 1]}, {"perm": [0, 3, 1, 2]}
PICTURES, WORDS = {"x": ["N", 3, 8, 8]}, {"x": ["N", 6, 4]}


def fold(proto: onnx.ModelProto) -> tuple[ir.Model, ir.Model, list[str]]:
    """In float64, so that only a wrong fold differs; and the ops that are left."""
    unfolded = exact(prepare(ir.from_proto(proto)))
    folded, _ = fold_once(unfolded, FoldOptions())
    onnx.checker.check_model(ir.to_proto(folded), full_check=True)
    return unfolded, folded, [one.op_type for one in folded.graph]


def assert_gone(proto: onnx.ModelProto, kinds: set[str]) -> None:
    unfolded, folded, left = fold(proto)
    assert kinds.isdisjoint(left), left
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    shape = [size.dim_value or 2 for size in sizes]
    rows = np.random.default_rng(7).normal(size=shape)
    assert relative_difference(unfolded, folded, rows) < EXACT


AFTER = {
    "Keras' Conv, Relu, BatchNorm, Conv": (
        [
            *(
                node("Conv", "x w", "h"),
                node("Transpose", "h", "t", **TO_LAST),
                node("Relu", "t", "r"),
                *LAST,
            ),
            *(node("Transpose", "n", "u", **TO_FIRST), node("Conv", "u w2", "y")),
        ],
        {"w": CONV, "w2": weights(5, 4, 3, 3)},
        PICTURES,
    ),
    "a mean before the head": (
        [
            *(node("Conv", "x w", "h"), node("Transpose", "h", "t", **TO_LAST), node("Elu", "t", "r"), *LAST),
            *(node("ReduceMean", "n", "u", axes=[1, 2], keepdims=0), node("Gemm", "u w2", "y")),
        ],
        {"w": CONV, "w2": DENSE},
        PICTURES,
    ),
    "a dense net of sequences": (
        [node("MatMul", "x w", "h"), node("Relu", "h", "r"), *LAST, node("MatMul", "n w2", "y")],
        {"w": weights(4, 4), "w2": DENSE},
        WORDS,
    ),
    "what comes together": (
        [node("Tanh", "x", "a"), node("Concat", "a a", "r", axis=1), *LAST, node("MatMul", "n w2", "y")],
        {"w2": DENSE},
        WORDS,
    ),
}


@pytest.mark.parametrize("name", AFTER)
def test_a_chain_goes_into_what_comes_after(name):
    nodes, arrays, inputs = AFTER[name]
    assert_gone(model(nodes, {**arrays, **PAIR}, inputs), {"Mul"})


@pytest.mark.parametrize("last", ["Div", "Mul"])
def test_the_end_of_a_layernorm_stays(last):
    """ONNX Runtime computes it as one node where it is whole."""
    nodes = [
        *(node("ReduceMean", "x", "mean", axes=[-1]), node("Sub", "x mean", "d"), node("Mul", "d d", "dd")),
        *(node("ReduceMean", "dd", "var", axes=[-1]), node("Sqrt", "var", "std")),
        *([] if last == "Div" else [node("Reciprocal", "std", "inverse")]),
        *(node(last, "d std" if last == "Div" else "d inverse", "r"), *LAST, node("MatMul", "n w2", "y")),
    ]
    assert fold(model(nodes, {"w2": DENSE, **PAIR}, WORDS))[2] == [one.op_type for one in nodes]


def first(shape: list[int]) -> onnx.ModelProto:
    """Channels moved first, where rows are, as bias-free denoisers write their BatchNorm."""
    nodes = [
        *(node("Conv", "x w", "h"), node("Transpose", "h", "t", perm=[1, 0, 2, 3]), node("Mul", "t g", "m")),
        *(node("Transpose", "m", "u", perm=[1, 0, 2, 3]), node("Relu", "u", "y")),
    ]
    return model(nodes, {"w": CONV, "g": PAIR["g"].reshape(shape)}, PICTURES)


def test_channels_that_were_moved_first_are_channels():
    assert_gone(first([4, 1, 1, 1]), {"Mul"})


def test_rows_are_no_channels():
    """A file of four rows, of which each has a number of its own: no weight of the Conv is for a row."""
    nodes = [node("Conv", "x w", "h"), node("Mul", "h g", "m"), node("Relu", "m", "y")]
    proto = model(nodes, {"w": CONV, "g": PAIR["g"].reshape(4, 1, 1, 1)}, {"x": [4, 3, 8, 8]})
    assert fold(proto)[2] == ["Conv", "Mul", "Relu"]


def expanded(*, is_wider: bool) -> onnx.ModelProto:
    """A constant repeated for each row, and along an axis of 6 that the rows have or lack."""
    nodes = [
        *(
            node("Shape", "x", "s0", start=0, end=1),
            node("Squeeze", "s0", "s1"),
            node("Reshape", "s1 any", "s"),
        ),
        node("Concat", "s six four", "to", axis=0),
        *(node("Expand", "c to", "e"), norm("x", "h0"), node("Unsqueeze", "h0 one", "h")),
        *(
            [node("Sub", "h e", "d")]
            if is_wider
            else [node("Expand", "h to", "h6"), node("Sub", "h6 e", "d")]
        ),
        *(node("ReduceMean", "d", "u", axes=[1], keepdims=0), node("Gemm", "u w2", "y")),
    ]
    sizes = {"six": np.array([6]), "four": np.array([4]), "one": np.array([1]), "any": np.array([-1])}
    arrays = {**sizes, **norm_arrays(4), "c": weights(1, 1, 4), "w2": DENSE}
    return model(nodes, arrays, {"x": ["N", 4]})


def test_a_constant_repeated_for_each_row_is_no_obstacle():
    assert_gone(expanded(is_wider=False), {"BatchNormalization"})


def test_a_constant_that_widens_what_it_meets_stays():
    """h has one place along the axis of 6, so that without the Expand the answer would have one."""
    unfolded, folded, left = fold(expanded(is_wider=True))
    assert "Expand" in left
    rows = np.random.default_rng(7).normal(size=(2, 4))
    assert relative_difference(unfolded, folded, rows) < EXACT


def test_one_product_of_sizes_has_one_name():
    """(8 · N, 64) and (8 · N, 4, 4, 4) have as many rows: a BatchNorm passes the Reshape between."""
    nodes = [
        *(node("Reshape", "x parts", "p"), node("Conv", "p w", "h", group=4), node("Reshape", "h maps", "m")),
        *(norm("m", "n"), node("Relu", "n", "r"), node("Conv", "r w2", "o"), node("Reshape", "o back", "y")),
    ]
    targets = {"parts": [-1, 64, 1, 1], "maps": [-1, 4, 4, 4], "back": [-1, 6, 4, 4]}
    arrays = {name: np.array(target) for name, target in targets.items()}
    arrays |= {"w": weights(64, 16, 1, 1), "w2": weights(3, 4, 1, 1), **norm_arrays(4)}
    assert_gone(model(nodes, arrays, {"x": ["N", 8, 4, 4]}), {"BatchNormalization"})
