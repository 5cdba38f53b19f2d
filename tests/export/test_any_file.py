"""Files of other people's exporters: unknown sizes, rows in a Reshape, weights in branches of If."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from export_kit import run_here
from file_kit import assert_all_fold, branch, folded, model, node, norm, norm_arrays, value, weights
from service.contract.bundle import open_bundle

CONV = [node("Conv", "x w", "h"), norm("h", "n")]
ARRAYS = {"w": weights(4, 3, 3, 3), **norm_arrays(4)}
X = {"x": ["N", 3, 8, 8]}


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.flatten(torch.relu(self.norm(self.conv(x))).mean((2, 3), keepdim=True), 1))


@pytest.mark.filterwarnings("ignore")
def test_torchs_export_at_its_defaults_is_bundled(tmp_path):
    torch.onnx.export(_Net().eval(), (torch.zeros(1, 3, 8, 8),), tmp_path / "net.onnx", verbose=False)
    reshapes = [n for n in onnx.load(tmp_path / "net.onnx").graph.node if n.op_type == "Reshape"]
    assert any(a.name == "allowzero" and a.i for n in reshapes for a in n.attribute), (
        "as torch 2.13 writes it"
    )
    done = run_here("bundle", tmp_path / "net.onnx", "--to", tmp_path / "models/net")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("allowzero", [0, 1])
def test_fixed_rows_in_a_reshape_follow_the_batch(tmp_path, allowzero):
    nodes = [*CONV, node("Reshape", "n s", "y", allowzero=allowzero)]
    proto = model(nodes, {**ARRAYS, "s": np.array([1, 144])}, {"x": [1, 3, 8, 8]}, [value("y", [1, 144])])
    onnx.save(proto, tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "models/net")
    assert done.returncode == 0, done.stderr


def test_an_output_that_an_identity_reads_keeps_its_name(tmp_path):
    nodes = [*CONV, node("Relu", "n", "y"), node("Identity", "y", "copy"), node("Neg", "copy", "z")]
    onnx.save(model(nodes, ARRAYS, X, ["y", "z"]), tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "models/net")
    assert done.returncode == 0, done.stderr
    outputs = open_bundle(tmp_path / "models/net/1").manifest.outputs
    assert [output.name for output in outputs] == ["y", "z"]


@pytest.mark.parametrize("rows", [-1, "?", ""])
@pytest.mark.parametrize("size", [8, -1, "?"])
def test_sizes_of_minus_1_and_question_marks_are_unknown(tmp_path, rows, size):
    """Where two are "?", they need not be equal: here H = 64 and the rows are 8."""
    proto = model(CONV, ARRAYS, {"x": [rows, 3, size, 8]}, [value("n", [rows, 4, -1, 6])])
    assert_all_fold(proto, tmp_path, ["Conv"])


def test_two_unknown_sizes_are_not_taken_for_one(tmp_path):
    """(?, 4, ?) → (?, 4) merges the rows with the last axis, so that the channels stay the last one."""
    nodes = [norm("x", "n"), node("Transpose", "n", "t", perm=[0, 2, 1]), node("Reshape", "t s", "r")]
    nodes += [node("MatMul", "r w", "y")]
    arrays = {"w": weights(4, 5), "s": np.array([-1, 4]), **norm_arrays(4)}
    assert_all_fold(model(nodes, arrays, {"x": ["?", 4, "?"]}), tmp_path)


def keras(order: list[int]) -> onnx.ModelProto:
    """Conv – Relu – BatchNorm – Flatten – Dense, as tf2onnx writes it for rows of any number."""
    nodes = [node("Conv", "x w", "h"), node("Relu", "h", "q"), norm("q", "n")]
    nodes += [
        node("Transpose", "n", "t", perm=order),
        node("Reshape", "t s", "f"),
        node("MatMul", "f d", "y"),
    ]
    return model(nodes, {**ARRAYS, "s": np.array([-1, 144]), "d": weights(144, 5)}, X)


@pytest.mark.parametrize("order", [[0, 2, 3, 1], [0, 1, 2, 3], [0, 3, 1, 2]])
def test_a_flatten_of_unknown_rows_lets_a_batchnorm_through(tmp_path, order):
    assert_all_fold(keras(order), tmp_path)


def test_rows_that_mix_with_places_do_not(tmp_path):
    """The transpose puts the rows last: (−1, 144) is no flatten of rows."""
    account, _ = folded(keras([2, 3, 1, 0]), tmp_path)
    assert account["declined"] == 1


def shaped(*nodes: onnx.NodeProto, last: str = "Gemm") -> onnx.ModelProto:
    """torch's x.view(x.size(0), −1): the rows are read from the shape."""
    head = [
        node("Conv", "x w", "h"),
        node("Relu", "h", "q"),
        norm("q", "n"),
        node("MaxPool", "n", "p", kernel_shape=[2, 2]),
    ]
    head += [node("Shape", "p", "s"), node("Gather", "s zero", "a"), node("Unsqueeze", "a axis", "u")]
    head += [node("Concat", "u rest", "k", axis=0), node("Reshape", "p k", "f"), node(last, "f d", "y")]
    arrays = {
        **ARRAYS,
        "zero": np.array(0),
        "axis": np.array([0]),
        "rest": np.array([-1]),
        "d": weights(100, 5),
    }
    return model(head, arrays, X)


@pytest.mark.parametrize("last", ["Gemm", "MatMul"])
def test_a_view_by_the_shape_of_the_rows_lets_a_batchnorm_through(tmp_path, last):
    assert_all_fold(shaped(last=last), tmp_path)


COND = [node("ReduceSum", "x", "sum", keepdims=0), node("Greater", "sum zero", "c")]
ZERO = {"zero": np.float32(0)}


def test_an_outer_value_stays_a_branchs_output_by_way_of_an_identity(tmp_path):
    """Both branches return the outer tensor, once by its name and once through a BatchNorm of its own."""
    then = branch([node("Identity", "n", "t")], "t")
    other = branch([norm("n", "e", "own")], "e", **norm_arrays(4, 1, "own"))
    nodes = [*CONV, *COND, node("If", "c", "y", then_branch=then, else_branch=other)]
    account, _ = folded(model(nodes, {**ARRAYS, **ZERO}, X), tmp_path)
    assert (account["found"], account["folded"]) == (2, 1), "the inner one reads what both branches read"


def test_weights_and_batchnorms_of_a_branch_fold_in_it(tmp_path):
    arrays = {
        "w1": weights(4, 3, 3, 3),
        **norm_arrays(4, 1, "own"),
        "w2": weights(4, 4, 3, 3),
        **norm_arrays(4, 2, "pre"),
    }
    then = branch(
        [
            node("Conv", "x w1", "h1"),
            norm("h1", "q1", "own"),
            norm("q1", "p1", "pre"),
            node("Conv", "p1 w2", "t"),
        ],
        "t",
        **arrays,
    )
    other = branch([node("Conv", "x w3", "e")], "e", w3=weights(4, 3, 5, 5))
    proto = model([*COND, node("If", "c", "y", then_branch=then, else_branch=other)], ZERO, X)
    assert_all_fold(proto, tmp_path, ["ReduceSum", "Greater", "If"])
    (inner,) = [
        a.g for a in onnx.load(tmp_path / "out.onnx").graph.node[-1].attribute if a.name == "then_branch"
    ]
    assert [n.op_type for n in inner.node] == ["Conv", "Conv"]


def test_a_batchnorm_in_the_body_of_a_loop_folds(tmp_path):
    """Three rounds of Conv → BatchNorm on what the round before left, and each round's answer."""
    body = helper.make_graph(
        [
            node("Conv", "state w", "h", pads=[1] * 4),
            norm("h", "next"),
            node("Identity", "go", "go_on"),
            node("Relu", "next", "seen"),
        ],
        "body",
        [
            value("round", [], onnx.TensorProto.INT64),
            value("go", [], onnx.TensorProto.BOOL),
            value("state", ["N", 4, 8, 8]),
        ],
        [
            value("go_on", [], onnx.TensorProto.BOOL),
            value("next", ["N", 4, 8, 8]),
            value("seen", ["N", 4, 8, 8]),
        ],
        [
            onnx.numpy_helper.from_array(array, name)
            for name, array in {"w": weights(4, 4, 3, 3), **norm_arrays(4)}.items()
        ],
    )
    loop = helper.make_node("Loop", ["rounds", "", "x"], ["y", "all"], name="loop", body=body)
    assert_all_fold(
        model([loop], {"rounds": np.array(3)}, {"x": ["N", 4, 8, 8]}, ("y", "all")), tmp_path, ["Loop"]
    )


def test_a_batchnorm_in_the_body_of_a_scan_folds(tmp_path):
    """One round for each frame of a clip (frames, rows, channels): Gemm → BatchNorm, and a running sum."""
    body = helper.make_graph(
        [
            node("Gemm", "frame w", "h"),
            norm("h", "n"),
            node("Add", "sum n", "next"),
            node("Identity", "n", "seen"),
        ],
        "body",
        [value("sum", ["N", 4]), value("frame", ["N", 6])],
        [value("next", ["N", 4]), value("seen", ["N", 4])],
        [
            numpy_helper.from_array(array, name)
            for name, array in {"w": weights(6, 4), **norm_arrays(4)}.items()
        ],
    )
    scan = helper.make_node("Scan", ["start", "x"], ["y", "all"], name="scan", body=body, num_scan_inputs=1)
    proto = model([scan], {}, {"start": [8, 4], "x": [5, 8, 6]}, ("y", "all"))
    assert_all_fold(proto, tmp_path, ["Scan"])
