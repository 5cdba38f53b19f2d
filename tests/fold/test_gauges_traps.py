"""Graphs on which a fold was once wrong: each must give the unfolded graph's answers, folded or not."""

import numpy as np
import pytest
from onnx import helper

from folds_kit import EXACT, fold_proto, relative_difference
from onnx_graphs import batchnorm, batchnorm_arrays, graph, value

RANDOM = np.random.default_rng(0)


def only_scale(channels: int) -> dict[str, np.ndarray]:
    arrays = batchnorm_arrays(channels, 0)
    return arrays | {"bn.beta": np.zeros(channels), "bn.mean": np.zeros(channels)}


def op(kind: str, inputs: str, output: str, **attributes: object):
    return helper.make_node(kind, inputs.split(), [output], name=kind.lower(), **attributes)


NORM, W = batchnorm("x", "n"), {"w": RANDOM.normal(size=(3, 4, 1, 1))}
TRAPS = {
    "a Mul with its constant first": (
        [NORM, op("Mul", "k n", "y")],
        {"k": RANDOM.normal(size=(4, 1, 1)), **only_scale(4)},
        [2, 4, 3, 3],
    ),
    "an Add with its constant first": (
        [
            op("MatMul", "x m", "h"),
            op("Transpose", "h", "t", perm=[0, 2, 1]),
            batchnorm("t", "n"),
            op("Add", "k n", "y"),
        ],
        {"m": RANDOM.normal(size=(5, 4)), "k": RANDOM.normal(size=(4, 1)), **batchnorm_arrays(4, 1)},
        [2, 3, 5],
    ),
    "a pool over the channels' axis": (
        [
            NORM,
            op("Transpose", "n", "t", perm=[0, 2, 1]),
            op("AveragePool", "t", "p", kernel_shape=[3], pads=[1, 1]),
            helper.make_node("Transpose", ["p"], ["u"], name="back", perm=[0, 2, 1]),
            op("Conv", "u v", "y"),
        ],
        {"v": RANDOM.normal(size=(3, 4, 1)), **batchnorm_arrays(4, 0)},
        [2, 4, 5],
    ),
    "a pool that shortens the channels' axis": (
        [
            NORM,
            op("Transpose", "n", "t", perm=[0, 2, 1]),
            op("AveragePool", "t", "y", kernel_shape=[2], strides=[2]),
        ],
        batchnorm_arrays(4, 0),
        [2, 4, 5],
    ),
    "a ConvTranspose of one tap with gaps": (
        [NORM, op("ConvTranspose", "n q", "y", strides=[2, 2])],
        {"q": RANDOM.normal(size=(4, 3, 1, 1)), **batchnorm_arrays(4, 0)},
        [2, 4, 3, 3],
    ),
}


@pytest.mark.parametrize(("nodes", "arrays", "shape"), TRAPS.values(), ids=TRAPS.keys())
def test_the_answer_is_the_unfolded_graphs(nodes, arrays, shape):
    unfolded, folded, _ = fold_proto(graph(nodes, arrays, shape))
    rows = np.random.default_rng(1).normal(size=shape)
    assert relative_difference(unfolded, folded, rows) < EXACT


def test_a_slice_along_an_axis_that_is_computed_ties_nothing():
    nodes = [
        NORM,
        op("Slice", "n starts ends axes steps", "s"),
        op("Conv", "s w", "y"),
    ]
    arrays = {**W, **batchnorm_arrays(4, 0)}
    arrays |= {"starts": np.array([3]), "ends": np.array([-9]), "steps": np.array([-1])}
    proto = graph(nodes, arrays, ["rows", 4, 3, 3], extra_inputs=[value("axes", [1], 7)])
    _, _, (site,) = fold_proto(proto)
    assert site.status == "declined"


@pytest.mark.parametrize("kind", ["Conv", "Gemm", "MatMul"])
def test_another_domains_op_of_the_same_name_is_not_understood(kind):
    nodes = [helper.make_node(kind, ["x", "w"], ["h"], domain="com.example", name="odd"), batchnorm("h", "y")]
    proto = graph(nodes, {"w": RANDOM.normal(size=(4, 4)), **batchnorm_arrays(4, 0)}, ["rows", 4])
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    _, _, (site,) = fold_proto(proto)
    assert site.status == "declined"


def test_a_pad_that_shifts_channels_ties_nothing():
    nodes = [NORM, op("Pad", "n pads", "p"), op("Conv", "p w", "y")]
    arrays = {"pads": np.array([0, 1, 0, 0, 0, -1, 0, 0]), **W, **only_scale(4)}
    _, _, (site,) = fold_proto(graph(nodes, arrays, [2, 4, 3, 3]))
    assert site.status == "declined"
