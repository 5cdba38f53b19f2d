"""A net with trees or a linear classifier after it, as skl2onnx and onnxmltools write them."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export_kit import run_here
from file_kit import model, node, norm, norm_arrays, value, weights

TREE = {
    "nodes_treeids": [0] * 3, "nodes_nodeids": [0, 1, 2], "nodes_featureids": [1, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.3, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
}  # fmt: skip
LEAVES = {
    "one score": {"class_treeids": [0] * 2, "class_nodeids": [1, 2], "class_ids": [0, 0],
                  "class_weights": [-0.4, 0.7], "post_transform": "LOGISTIC"},
    "a forest's": {"class_treeids": [0] * 4, "class_nodeids": [1, 1, 2, 2], "class_ids": [0, 1, 0, 1],
                   "class_weights": [0.3, 0.7, 0.8, 0.2]},
    "one class a leaf": {"class_treeids": [0] * 2, "class_nodeids": [1, 2], "class_ids": [0, 1],
                         "class_weights": [0.3, 0.7]},
}  # fmt: skip
HEADS = {
    **{
        name: ("TreeEnsembleClassifier", {**TREE, **leaves, "classlabels_int64s": [0, 1]})
        for name, leaves in LEAVES.items()
    },
    "one row": (
        "LinearClassifier",
        {"coefficients": [0.5, -1.0, 0.3, 0.1], "intercepts": [0.2], "classlabels_ints": [0, 1]},
    ),
}


@pytest.mark.parametrize(("op_type", "attributes"), HEADS.values(), ids=HEADS)
def test_two_classes_are_proved_against_the_runtime_that_answers(tmp_path, op_type, attributes):
    head = helper.make_node(op_type, ["n"], ["label", "scores"], "head", domain="ai.onnx.ml", **attributes)
    proto = model(
        [node("MatMul", "x w", "h"), norm("h", "n"), head],
        {"w": weights(6, 4), **norm_arrays(4)},
        {"x": ["N", 6]},
        [value("label", ["N"], TensorProto.INT64), value("scores", ["N", 2])],
        extra_domain="ai.onnx.ml",
    )
    onnx.save(proto, tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folded"] == 1
    assert np.load(tmp_path / "m/1/golden.npz")["output.label"].ndim == 1
