"""A channel with γ = 0 gives β whatever comes in: it costs nothing where linear ops alone read it."""

import numpy as np
import onnx
import pytest
from onnx_ir import from_proto

from export.fold.stages import fold
from export.graph.prepare import prepare
from file_kit import model, node, norm, norm_arrays, weights
from folds_kit import EXACT, exact, relative_difference

C = 8
X = {"x": ["N", 3, 8, 8]}
ROWS = np.random.default_rng(5).normal(size=(2, 3, 8, 8))
STREAM = [
    *(node("Conv", "x w", "h"), norm("h", "na", "a"), node("Relu", "na", "ra"), node("Conv", "ra wa", "ya")),
    *(norm("h", "nb", "b"), node("Relu", "nb", "rb"), node("Conv", "rb wb", "yb", pads=[1] * 4)),
]
"""Two branches read one tensor, as in a DenseNet and a ResNetV2."""


def dead_in(prefix: str, gamma: float = 0.0, beta: float = 0.3, every: bool = False) -> dict[str, np.ndarray]:
    arrays = {
        "w": weights(C, 3, 3, 3),
        "wa": weights(4, C, 1, 1),
        "wb": weights(4, C, 3, 3),
        **norm_arrays(C, 0, "a"),
        **norm_arrays(C, 0, "b"),
    }
    arrays["b.beta"], arrays["b.mean"] = arrays["a.beta"], arrays["a.mean"]
    arrays = {name: array.copy() for name, array in arrays.items()}
    channels = slice(None) if every else slice(2, 3)
    arrays[f"{prefix}.gamma"][channels], arrays[f"{prefix}.beta"][channels] = gamma, beta
    return arrays


def statuses(proto: onnx.ModelProto) -> list[str]:
    unfolded = exact(prepare(from_proto(proto)))
    folded, sites = fold(unfolded)
    assert relative_difference(unfolded, folded, ROWS) < EXACT
    return [site.status for site in sites]


@pytest.mark.parametrize("beta", [0.3, -0.3])
def test_a_dead_channel_read_by_an_unpadded_conv_costs_nothing(beta):
    assert statuses(model(STREAM, dead_in("a", beta=beta), X, ("ya", "yb"))) == ["folded", "folded"]


def test_a_padded_conv_takes_a_channel_that_is_zero():
    assert statuses(model(STREAM, dead_in("b", beta=-0.3), X, ("ya", "yb"))) == ["folded", "folded"]
    assert statuses(model(STREAM, dead_in("b", beta=0.3), X, ("ya", "yb"))) == ["folded", "declined"]


@pytest.mark.parametrize("opset", [17, 18])
def test_features_after_a_mean(opset):
    mean = {"axes": [2, 3]} if opset < 18 else {}
    nodes = [
        *STREAM[:1],
        *(norm("h", "na", "a"), node("Relu", "na", "ra")),
        node("ReduceMean", "ra" if mean else "ra axes", "f", keepdims=0, **mean),
        *(
            node("Gemm", "f v", "ya"),
            norm("h", "nb", "b"),
            node("Relu", "nb", "rb"),
            node("Conv", "rb wa", "yb"),
        ),
    ]
    arrays = {**dead_in("a"), "v": weights(C, 5), "axes": np.array([2, 3])}
    assert statuses(model(nodes, arrays, X, ("ya", "yb"), opset=opset)) == ["folded", "folded"]


def test_features_after_a_pool():
    nodes = [
        *STREAM[:1],
        *(norm("h", "na", "a"), node("Relu", "na", "ra"), node("GlobalAveragePool", "ra", "p")),
        *(node("Flatten", "p", "f"), node("Gemm", "f v", "ya")),
        *(norm("h", "nb", "b"), node("Relu", "nb", "rb"), node("Conv", "rb wa", "yb", group=1)),
    ]
    proto = model(nodes, {**dead_in("a"), "v": weights(C, 5)}, X, ("ya", "yb"))
    assert statuses(proto) == ["folded", "folded"]


@pytest.mark.parametrize("more", [[node("Add", "ra h", "y2")], [node("Sigmoid", "na", "y2")]])
def test_another_reader_keeps_it(more):
    assert statuses(model([*STREAM, *more], dead_in("a"), X, ("ya", "yb", "y2")))[0] == "declined"


def test_a_batchnorm_that_is_dead_throughout_stays():
    assert statuses(model(STREAM, dead_in("a", every=True), X, ("ya", "yb"))) == ["declined", "folded"]


@pytest.mark.parametrize("group", [2, C])
def test_a_conv_in_groups(group):
    nodes = [*STREAM[:3], node("Conv", "ra wg", "ya", group=group), *STREAM[4:]]
    proto = model(nodes, {**dead_in("a"), "wg": weights(C, C // group, 1, 1)}, X, ("ya", "yb"))
    assert statuses(proto) == ["folded", "folded"]


def test_a_tiny_channel_costs_its_own_batchnorm_alone():
    """γ = 10⁻⁶ asks for a shift of 3·10⁵ on what both read, which is no channel that may be dropped."""
    assert statuses(model(STREAM, dead_in("a", gamma=1e-6), X, ("ya", "yb"))) == ["declined", "folded"]
