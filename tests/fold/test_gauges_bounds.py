"""A Max or Min whose constant is the largest number of its dtype cuts nothing off, whatever the gauge."""

import warnings

import numpy as np
import pytest

from file_kit import assert_all_fold, folded, model, node, norm, norm_arrays, weights
from gauge_kit import Net, Result
from gauge_kit import folded as folded_net

C, SHAPE = 4, ("rows", 3, 5, 5)
LARGEST = float(np.finfo(np.float64).max)


def bounded(kind: str, numbers: list[float], *, swap: bool = False) -> Result:
    """Conv → `kind` with a number for each channel → a BatchNorm that makes it 3 to 4 times as large."""
    net = Net(0)
    x, bound = net.conv("x", 3, C), net.constant(np.array(numbers).reshape(C, 1, 1))
    operands = (bound, x) if swap else (x, bound)
    if kind == "Where":
        operands = (net.constant(np.array([True, False, True, False, True])), *operands)
    y = net.op("Sigmoid", net.norm(net.op(kind, *operands), C, positive=True))
    net.arrays["bn0.gamma"] = np.linspace(3, 4, C)
    net.arrays["bn0.var"] = np.ones(C)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return folded_net(net, SHAPE, y)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(("kind", "none"), [("Max", -LARGEST), ("Min", LARGEST)])
def test_no_bound_stays_none_and_the_others_move(kind: str, none: float, swap: bool):
    result = bounded(kind, [none, 0.2, none, -0.1], swap=swap)
    assert result.gone() == {"bn0"}
    (node_left,) = (one for one in result.folded.graph if one.op_type == kind)
    (array,) = (one.const_value.numpy().ravel() for one in node_left.inputs if one.const_value is not None)
    assert (array == none).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("kind", "number"), [("Max", LARGEST), ("Max", -LARGEST / 2), ("Min", -LARGEST), ("Where", -LARGEST)]
)
def test_a_number_that_counts_is_not_made_infinite(kind: str, number: float):
    """What is always chosen, a real bound that the gauge makes too large, and what a mask fills in."""
    result = bounded(kind, [0.3, number, 0.2, 0.1])
    assert "overflow float64" in result.how()
    assert "declined" in result.how()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_files_are_proved(tmp_path, dtype):
    largest = float(np.finfo(dtype).max)
    arrays = {"w": weights(C, 3, 3, 3, dtype=dtype), **norm_arrays(C, dtype=dtype)}
    arrays["bn.gamma"] = np.linspace(3, 4, C, dtype=dtype)
    nodes = [node("Conv", "x w", "h"), node("Max", "h m", "k"), norm("k", "n"), node("Sigmoid", "n", "y")]
    for number, goes in ((-largest, True), (largest, False)):
        arrays["m"] = np.array([0.1, number, -0.3, number], dtype=dtype).reshape(C, 1, 1)
        proto = model(nodes, arrays, {"x": ["N", 3, 8, 8]})
        if dtype == np.float16:
            for one in (*proto.graph.input, *proto.graph.output):
                one.type.tensor_type.elem_type = 10
        if goes:
            assert_all_fold(proto, tmp_path, ["Conv", "Max", "Sigmoid"])
        else:
            assert folded(proto, tmp_path)[0]["declined"] == 1
