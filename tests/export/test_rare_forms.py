"""Rare forms of a file: sparse weights, Constants beside it, functions of other opsets, numbers."""

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export_kit import assert_refused, run_here
from file_kit import assert_all_fold, folded, model, node, norm, norm_arrays, value, weights
from open_kit import itself
from service.contract.bundle import open_bundle

X = {"x": ["N", 3, 8, 8]}
ARRAYS = {"w": weights(4, 3, 3, 3), **norm_arrays(4)}
CONV = [node("Conv", "x w", "h"), norm("h", "n")]
HEAD = [node("ReduceMean", "n", "f", axes=[2, 3], keepdims=0), node("MatMul", "f d", "y")]
ROWS = {"x": np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)}


def assert_answers_alike(tmp_path, unfolded: onnx.ModelProto) -> None:
    got = itself(onnx.load(tmp_path / "out.onnx"), ROWS)
    for name, expected in itself(unfolded, ROWS).items():
        np.testing.assert_allclose(got[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def sparse(*, is_linear: bool) -> onnx.SparseTensorProto:
    """A weight (4, 5) named d, of which half the numbers are stored: by one index each, or by two."""
    dense = np.maximum(weights(4, 5), 0)
    places = np.flatnonzero(dense) if is_linear else np.argwhere(dense)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(dense[dense != 0], "d"),
        numpy_helper.from_array(places.astype(np.int64), "places"),
        dense.shape,
    )


@pytest.mark.parametrize("is_linear", [False, True])
@pytest.mark.parametrize("is_constant", [False, True])
def test_a_sparse_weight_is_read(tmp_path, is_linear, is_constant):
    tensor = sparse(is_linear=is_linear)
    nodes = [helper.make_node("Constant", [], ["d"], sparse_value=tensor)] if is_constant else []
    proto = model([*nodes, *CONV, *HEAD], ARRAYS, X)
    if not is_constant:
        proto.graph.sparse_initializer.append(tensor)
    assert_all_fold(proto, tmp_path)
    dense = model([*CONV, *HEAD], {**ARRAYS, "d": np.maximum(weights(4, 5), 0)}, X)
    assert_answers_alike(tmp_path, dense)


@pytest.mark.parametrize("norms", [CONV, [node("Conv", "x w", "n")]], ids=["to fold", "nothing to fold"])
def test_weights_of_constants_may_lie_beside_the_file(tmp_path, norms):
    proto = model([*norms, *HEAD], {**ARRAYS, "d": weights(4, 5)}, X)
    inside = onnx.ModelProto.FromString(proto.SerializeToString())
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in proto.graph.initializer]
    nodes = [*constants, *proto.graph.node]
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.save(
        proto, tmp_path / "in.onnx", save_as_external_data=True, size_threshold=0, convert_attribute=True
    )
    (tmp_path / "elsewhere").mkdir()
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "elsewhere/out.onnx")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folded"] == (norms is CONV)
    (tmp_path / "elsewhere/out.onnx").rename(tmp_path / "out.onnx")
    assert_answers_alike(tmp_path, inside)


def called(opset: int, *more: onnx.NodeProto) -> onnx.ModelProto:
    """A file of opset 17 that calls Conv – BatchNorm, a function of another opset."""
    block = helper.make_node(
        "Block",
        ["x", "w", *(f"bn.{name}" for name in ("gamma", "beta", "mean", "var"))],
        ["y"],
        domain="mine",
    )
    proto = model([block], ARRAYS, X, extra_domain="mine")
    body = [node("Conv", "i k", "h"), node("BatchNormalization", "h g b m v", "n"), *more]
    imports = [helper.make_opsetid("", opset)]
    proto.functions.append(helper.make_function("mine", "Block", list("ikgbmv"), ["o"], body, imports))
    return proto


@pytest.mark.parametrize("opset", [15, 16, 18])
def test_a_function_of_another_opset_is_inlined_where_its_ops_are_the_same(tmp_path, opset):
    assert_all_fold(called(opset, node("Relu", "n", "o")), tmp_path, ["Conv", "Relu"])


def test_before_opset_14_further_outputs_are_training(tmp_path):
    """So torch wrote a net in training mode: y, and four outputs that nothing reads."""
    nodes = [CONV[0], norm("h", "n"), node("Conv", "n v", "y")]
    nodes[1].output.extend(["mean", "var", "saved_mean", "saved_var"])
    proto = model(nodes, {**ARRAYS, "v": weights(5, 4, 1, 1)}, X, opset=9)
    account, _ = folded(proto, tmp_path)
    assert account["declined"] == 1
    assert "normalises by each batch" in account["sites"][0]["reason"]
    assert_answers_alike(tmp_path, proto)
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "m")
    assert_refused(done, "'BatchNormalization_n' normalises by each batch: export the net in eval mode")


def test_rows_of_one_number_have_one_channel(tmp_path):
    """BatchNormalization takes (N) too, as (N, 1) without its second axis."""
    account, _ = folded(model([norm("x", "y")], norm_arrays(1), {"x": ["N"]}), tmp_path)
    assert account["declined"] == 1


MEAN = node("ReduceMean", "n", "y", keepdims=0)


@pytest.mark.parametrize("rows", [1, "N"])
def test_an_output_may_be_one_number(tmp_path, rows):
    proto = model([*CONV, MEAN], ARRAYS, {"x": [rows, 3, 8, 8]})
    assert_all_fold(proto, tmp_path, ["Conv", "ReduceMean"])
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "m")
    assert done.returncode == 0, done.stderr


def test_an_input_may_be_one_number(tmp_path):
    """A scale, and a flag that nothing reads."""
    proto = model([node("Mul", "x s", "z"), node("Conv", "z w", "h"), norm("h", "y")], ARRAYS, {**X, "s": []})
    proto.graph.input.append(value("flag", [], TensorProto.BOOL))
    assert_all_fold(proto, tmp_path)


def dropping() -> onnx.ModelProto:
    nodes = [
        *CONV,
        node("Dropout", "n half flag", "f0"),
        node("ReduceMean", "f0", "f", axes=[2, 3], keepdims=0),
    ]
    proto = model([*nodes, HEAD[1]], {**ARRAYS, "d": weights(4, 5), "half": np.float32(0.5)}, X)
    proto.graph.input.append(value("flag", [], TensorProto.BOOL))
    return proto


@pytest.mark.parametrize("verb", ["fold", "bundle"])
def test_a_flag_that_lets_a_dropout_draw_is_named(tmp_path, verb):
    onnx.save(dropping(), tmp_path / "in.onnx")
    to = ("--to", tmp_path / "m") if verb == "bundle" else (tmp_path / "out.onnx",)
    done = run_here(verb, tmp_path / "in.onnx", *to)
    assert_refused(
        done, "Dropout 'Dropout_f0' draws random numbers where 'flag' is true: --input-value flag=0"
    )
    done = run_here(verb, tmp_path / "in.onnx", *to, "--input-value", "flag=0")
    assert done.returncode == 0, done.stderr


def test_a_bundle_of_one_number_a_row_says_how_it_is_served(tmp_path):
    onnx.save(model([*CONV, MEAN], ARRAYS, {"x": [1, 3, 8, 8]}), tmp_path / "in.onnx")
    run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "m")
    assert open_bundle(tmp_path / "m/1").manifest.outputs[0].shape[0] is None


def test_ai_onnx_is_the_other_name_of_onnxs_own_domain(tmp_path):
    proto = model([*CONV, *HEAD], {**ARRAYS, "d": weights(4, 5)}, X)
    proto.opset_import[0].domain = "ai.onnx"
    assert_all_fold(proto, tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1f\nsize 12\n", "'git lfs pull' fetches"),
        ("\n<!DOCTYPE html><html>404</html>", "it is a web page: download the file itself"),
    ],
)
def test_what_often_lies_where_a_file_should_is_named(tmp_path, content, sentence):
    (tmp_path / "in.onnx").write_text(content)
    assert_refused(run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx"), sentence)


def test_time_first_of_fixed_length_is_not_the_rows(tmp_path):
    """x (6, N, 3) is a sequence of 6 for N rows, as torch's recurrent layers have it."""
    nodes = [node("LSTM", "x w r", "h", hidden_size=4), node("Squeeze", "h one", "s")]
    nodes += [node("Transpose", "s", "t", perm=[1, 2, 0]), norm("t", "n"), node("Conv", "n k", "y")]
    arrays = {"w": weights(1, 16, 3), "r": weights(1, 16, 4), "one": np.array([1]), "k": weights(5, 4, 3)}
    onnx.save(model(nodes, {**arrays, **norm_arrays(4)}, {"x": [6, "N", 3]}), tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    manifest = open_bundle(tmp_path / "m/1").manifest
    assert manifest.inputs[0].shape == [None, 6, 3]
    assert manifest.max_rows is None


def test_what_the_runtime_refuses_says_what_to_do(tmp_path):
    onnx.save(model([CONV[0], norm("h", "y", training_mode=1)], ARRAYS, X), tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert_refused(done, "export the net in eval mode")
    assert "[ONNXRuntimeError]" not in done.stderr


@pytest.mark.parametrize("is_cast", [True, False], ids=["cast inside", "bfloat16 rows"])
def test_bfloat16_is_computed_in_float32(tmp_path, is_cast):
    """ONNX Runtime has no kernels for it on a CPU; the weights are the same."""
    arrays = {**ARRAYS, "d": weights(4, 5)}
    first = [node("Cast", "x", "b", to=16), node("Conv", "b w", "h")] if is_cast else [CONV[0]]
    narrow = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    proto = model([*first, CONV[1], *HEAD], narrow, X, [value("y", None, 16)])
    if not is_cast:
        proto.graph.input[0].type.tensor_type.elem_type = 16
    onnx.save(proto, tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folded"] == 1
    manifest = open_bundle(tmp_path / "m/1").manifest
    assert "computed in float32 instead of bfloat16" in (tmp_path / "m/1/manifest.json").read_text()
    assert {one.dtype for one in (*manifest.inputs, *manifest.outputs)} == {"float32"}
    rounded = {name: array.astype(np.float32) for name, array in narrow.items()}
    (tmp_path / "m/1/model.onnx").rename(tmp_path / "out.onnx")
    assert_answers_alike(tmp_path, model([*CONV, *HEAD], rounded, X))


def test_an_optional_of_a_tensor_is_that_tensor(tmp_path):
    nodes = [*CONV, node("Optional", "n", "o"), node("OptionalGetElement", "o", "g"), node("Relu", "g", "y")]
    assert_all_fold(model(nodes, ARRAYS, X), tmp_path, ["Conv", "Relu"])


@pytest.mark.parametrize("opset", [8, 11, 13, 15])
def test_outputs_of_a_batchnorm_without_names_are_none(tmp_path, opset):
    """ONNX Runtime dies of them when it loads such a file, so in a process of its own."""
    batchnorm = norm("h", "n")
    batchnorm.output.extend([""] * (4 if opset < 14 else 2))
    proto = model([CONV[0], batchnorm, *HEAD], {**ARRAYS, "d": weights(4, 5)}, X, opset=opset)
    onnx.save(proto, tmp_path / "in.onnx")
    command = [
        sys.executable,
        "-m",
        "export",
        "fold",
        str(tmp_path / "in.onnx"),
        str(tmp_path / "out.onnx"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not any(
        node.op_type == "BatchNormalization" for node in onnx.load(tmp_path / "out.onnx").graph.node
    )
    del batchnorm.output[1:]
    assert_answers_alike(
        tmp_path, model([CONV[0], batchnorm, *HEAD], {**ARRAYS, "d": weights(4, 5)}, X, opset=opset)
    )
