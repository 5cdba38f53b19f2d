"""`spatial` = 0 of opset 7 and 8: on rows of features it is the usual BatchNorm, on pictures it is not."""

import numpy as np
import onnx_ir as ir
import pytest

from export.fold.batchnorm import BatchNorm, read_batchnorm
from file_kit import assert_all_fold, model, node, norm, norm_arrays, weights
from gauge_kit import Net, assert_gone, folded

ROWS = {"x": ["N", 5]}


@pytest.mark.parametrize("opset", [7, 8])
def test_after_a_matmul_it_folds_and_is_proved(tmp_path, opset):
    nodes = [node("MatMul", "x w", "h"), norm("h", "n", spatial=0), node("Sigmoid", "n", "y")]
    proto = model(nodes, {"w": weights(5, 4), **norm_arrays(4)}, ROWS, opset=opset)
    assert_all_fold(proto, tmp_path, ["Gemm", "Sigmoid"])


@pytest.mark.parametrize("opset", [7, 8])
def test_before_a_gemm_it_folds_too(opset: int):
    net = Net(0, opset)
    y = net.gemm(net.norm(net.op("Sigmoid", net.gemm("x", 5, 4)), 4, spatial=0), 4, 3)
    assert assert_gone(net, ("rows", 5), y).ops == ["Gemm", "Sigmoid", "Gemm"]


def test_one_that_stays_still_takes_the_scale_of_another():
    net = Net(1, 8)
    first = net.norm(net.op("Sigmoid", net.gemm("x", 5, 4)), 4, spatial=0)
    result = folded(net, ("rows", 5), net.op("Sigmoid", net.norm(first, 4, spatial=0)))
    assert len(result.gone()) == 1
    assert result.ops.count("BatchNormalization") == 1


@pytest.mark.parametrize("shape", [None, ["rows", 4, 6], ["rows", 4, 1, 1]])
def test_any_other_rank_stays(shape):
    """Of an unknown rank too: nothing says then that it is rows of features."""
    arrays = {name: np.ones(4, dtype=np.float32) for name in ("gamma", "beta", "mean", "var")}
    parameters = [ir.Value(name=name, const_value=ir.tensor(array)) for name, array in arrays.items()]
    ir.Graph([], [], nodes=[], initializers=parameters)
    source = ir.Value(name="x", shape=None if shape is None else ir.Shape(shape))
    read = read_batchnorm(ir.node("BatchNormalization", [source, *parameters], {"spatial": 0}, name="bn"))
    assert not isinstance(read, BatchNorm)
    assert read.reason is not None
    assert "per position, not per channel" in read.reason
