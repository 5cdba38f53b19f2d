"""Rows that the user gives for an ONNX file that noise does not fit."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from export.errors import ProofError, suggesting_values
from export.proof.golden import blended_inputs
from export_kit import assert_refused, run_here
from file_kit import bundle, folded, model, node, norm, norm_arrays, value, weights
from service.contract.bundle import open_bundle

CONV = [node("Conv", "x w", "h"), norm("h", "n")]
ARRAYS = {"w": weights(4, 3, 3, 3), **norm_arrays(4)}


def log_net() -> onnx.ModelProto:
    """F08: noise has no logarithm."""
    nodes = [node("Log", "x", "l"), node("Conv", "l w", "h"), norm("h", "y")]
    return model(nodes, ARRAYS, {"x": ["N", 3, 8, 8]}, [value("y", ["N", 4, 6, 6])])


@pytest.fixture
def save_rows(tmp_path):
    def save(**arrays: np.ndarray):
        np.savez(tmp_path / "rows.npz", **arrays)
        return f"--rows={tmp_path / 'rows.npz'}"

    return save


def test_rows_that_are_given_prove_what_noise_cannot(tmp_path, save_rows):
    flag = save_rows(x=np.random.default_rng(0).uniform(0.1, 5, (5, 3, 8, 8)))
    assert_refused(bundle(log_net(), tmp_path), "--rows FILE.npz")
    assert folded(log_net(), tmp_path, flag)[0]["folded"] == 1
    assert bundle(log_net(), tmp_path, flag).returncode == 0
    rows = open_bundle(tmp_path / "models/net/1").golden.inputs["x"]
    assert len(rows) >= 32
    assert rows.min() >= 0.1 - 1e-6


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((4, 3, 8, 7), np.float32)}, "has the shape [4, 3, 8, 7]"),
        ({"x": np.full((4, 3, 8, 8), np.nan, np.float32)}, "not finite"),
        ({"x": np.array(["a"] * 4)}, "has the shape [4]"),
        ({"x": np.ones((1, 3, 8, 8), np.float32)}, "1 rows, expected at least 2"),
        ({"a": np.ones(2), "b": np.ones(2)}, "must have the arrays ['x'], found ['a', 'b']"),
    ],
)
def test_rows_that_do_not_fit_are_one_sentence(tmp_path, save_rows, arrays, message):
    assert_refused(bundle(log_net(), tmp_path, save_rows(**arrays)), message)


def test_rows_with_pickles_are_not_opened(tmp_path, save_rows):
    flag = save_rows(x=np.array([{}, {}], dtype=object))
    assert_refused(bundle(log_net(), tmp_path, flag), "cannot be read")


def test_mixtures_stay_between_their_rows_and_integers_stay_themselves():
    given = {"x": np.arange(6.0).reshape(3, 2), "ids": np.array([[7], [9], [11]])}
    rows = blended_inputs(given, seed=0)
    assert len(rows["x"]) == len(rows["ids"]) == 32
    assert set(rows["ids"].ravel()) <= {7, 9, 11}
    np.testing.assert_array_equal(rows["x"][:3], given["x"])
    assert (rows["x"] >= 0).all()
    assert (rows["x"] <= 5).all()


def test_integer_rows_must_be_of_the_inputs_type(tmp_path, save_rows):
    nodes = [node("Gather", "table ids", "e"), norm("e", "n"), node("Relu", "n", "y")]
    arrays = {"table": weights(50, 4), **norm_arrays(4)}
    proto = model(nodes, arrays, {"ids": ["N"]}, [value("y", ["N", 4])])
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    assert folded(proto, tmp_path, save_rows(ids=np.arange(2, 50)))[0]["found"] == 1
    assert_refused(bundle(proto, tmp_path, save_rows(ids=np.linspace(0, 3, 9))), "not all of it is int64")


def divided() -> onnx.ModelProto:
    """By a number of each call, which is never 0 where it is called."""
    return model(
        [*CONV, node("Div", "n temperature", "y")],
        ARRAYS,
        {"x": ["N", 3, 8, 8], "temperature": []},
        [value("y", ["N", 4, 6, 6])],
    )


def test_golden_rows_leave_out_a_number_that_has_no_answer(tmp_path):
    done = bundle(divided(), tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (path.parent for path in tmp_path.rglob("manifest.json"))
    assert (open_bundle(folder).golden.inputs["temperature"] != 0).all()
    done = bundle(divided(), tmp_path, "--input-value", "temperature=2")
    assert done.returncode == 0, done.stderr


def test_a_number_of_each_call_is_named_where_golden_rows_do_not_fit_it():
    with (
        pytest.raises(ProofError, match="input 'temperature' is one number, which rows try with noise and 0"),
        suggesting_values(["temperature"]),
    ):
        raise ProofError("its answers are not finite: give real rows, --rows FILE.npz")


def test_no_number_is_named_where_there_is_none(tmp_path):
    nodes = [node("Log", "x", "l"), node("Conv", "l w", "h"), norm("h", "y")]
    proto = model(nodes, ARRAYS, {"x": ["N", 3, 8, 8]})
    onnx.save(proto, tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert_refused(done, "not finite")
    assert "--input-value" not in done.stderr
