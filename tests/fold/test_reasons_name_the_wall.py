"""The reason why a BatchNorm stays names the op that is the obstacle, not one that would pass a scale on."""

from typing import Any

import numpy as np
import onnx
import pytest

from file_kit import folded, model, node, norm, norm_arrays, weights

PICTURE = {"x": ["N", 3, 8, 8]}
CONV = [node("Conv", "x w", "h")]
SIGMOID = [node("Sigmoid", "n", "y")]
ARRAYS = {"w": weights(4, 3, 3, 3), **norm_arrays(4)}


def reason(
    nodes: list[onnx.NodeProto], folder: Any, arrays: dict[str, Any] = ARRAYS, inputs: Any = None, **more: Any
) -> str:
    """Of the one that stays."""
    account, _ = folded(model(nodes, arrays, inputs or PICTURE, **more), folder)
    (site,) = [site for site in account["sites"] if site["status"] == "declined"]
    return str(site["reason"])


MOVED = [node("Transpose", "a", "t", perm=[0, 2, 3, 1]), node("Transpose", "t", "b", perm=[0, 3, 1, 2])]
WALLS = {
    "through transposes": ([*CONV, node("Sigmoid", "h", "a"), *MOVED], "Sigmoid 'Sigmoid_a'"),
    "through a pooling": (
        [*CONV, node("Sigmoid", "h", "a"), node("GlobalMaxPool", "a", "b")],
        "Sigmoid 'Sigmoid_a'",
    ),
    "the next one": ([*CONV, node("Tanh", "h", "b")], "Tanh 'Tanh_b'"),
    "weights that are computed": (
        [node("ReduceMax", "x", "m", keepdims=0), node("Mul", "w m", "k"), node("Conv", "x k", "b")],
        "Conv 'Conv_b'",
    ),
}


@pytest.mark.parametrize(("before", "wall"), WALLS.values(), ids=WALLS)
def test_the_wall_is_named(tmp_path, before, wall):
    said = reason([*before, norm("b", "n"), *SIGMOID], tmp_path)
    assert f"{wall} cannot absorb a scale or shift; Sigmoid 'Sigmoid_y' cannot" in said


def test_an_input_that_is_only_moved_is_named_as_such(tmp_path):
    nodes = [node("Transpose", "x", "b", perm=[0, 2, 1]), norm("b", "n"), *SIGMOID]
    said = reason(nodes, tmp_path, norm_arrays(4), {"x": ["N", 6, 4]})
    assert "channels: it reads the graph's input, which must stay the same; Sigmoid 'Sigmoid_y'" in said


TIED = {
    "height as channels": (
        [*CONV, node("Transpose", "h", "b", perm=[0, 2, 3, 1])],
        {**ARRAYS, **norm_arrays(6)},
        PICTURE,
        "in 5 of 6 channels: Transpose 'Transpose_b'",
    ),
    "features on the other axis": (
        [node("MatMul", "x d", "b")],
        {"d": weights(4, 4), **norm_arrays(4)},
        {"x": ["N", 4, 4]},
        "in 3 of 4 channels: MatMul 'MatMul_b'",
    ),
}


@pytest.mark.parametrize(("before", "arrays", "inputs", "tie"), TIED.values(), ids=TIED)
def test_what_ties_channels_together_is_named(tmp_path, before, arrays, inputs, tie):
    said = reason([*before, norm("b", "n"), *SIGMOID], tmp_path, arrays, inputs)
    assert f"{tie} before it ties its channels together: one scale only; Sigmoid 'Sigmoid_y'" in said
    assert "other BatchNorms" not in said


def test_a_sign_that_is_tied(tmp_path):
    """A chain of Mul and Add on another axis than that of the channels."""
    nodes = [node("MatMul", "x d", "h"), node("Mul", "h s", "n"), *SIGMOID]
    scale = np.array([1, -1, 2, -2], np.float32).reshape(4, 1)
    proto = model(nodes, {"d": weights(4, 4), "s": scale}, {"x": ["N", 4, 4]})
    account, _ = folded(proto, tmp_path)
    (site,) = account["per_channel"]
    assert (
        "the sign of γ cannot be absorbed in 2 of 4 channels: MatMul 'MatMul_h' before it" in site["reason"]
    )


def test_what_takes_no_shift_is_named(tmp_path):
    """A tensor less its own mean loses every shift."""
    nodes = [*CONV, node("ReduceMean", "h", "m", axes=[2, 3]), node("Sub", "h m", "b"), norm("b", "n")]
    said = reason([*nodes, *SIGMOID], tmp_path)
    assert said.startswith("its shift cannot be absorbed in 4 of 4 channels: Sub 'Sub_b'")
    assert "other BatchNorms" not in said
