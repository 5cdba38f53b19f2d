"""What the user says of the open sizes of an ONNX file's inputs."""

import numpy as np
import onnx
import pytest

from export_kit import assert_refused, run_here
from file_kit import assert_all_fold, bundle, folded, model, node, norm, norm_arrays, value, weights
from service.contract.bundle import open_bundle

CONV = [node("Conv", "x w", "h"), norm("h", "n")]
ARRAYS = {"w": weights(4, 3, 3, 3), **norm_arrays(4)}
OPEN = model(CONV, ARRAYS, {"x": ["N", 3, "H", "W"]}, [value("n", ["N", 4, "a", "b"])])


def two_pictures() -> onnx.ModelProto:
    """Two pictures that share H and W by name; their sum has sizes that only a run can tell."""
    nodes = [node("Add", "x z", "s"), node("Conv", "s w", "h"), norm("h", "n"), node("Mul", "n one", "y")]
    inputs = {"x": ["N", 3, "H", "W"], "z": ["N", 3, "H", "W"]}
    return model(nodes, {**ARRAYS, "one": np.float32(2)}, inputs, [value("y", ["N", "c", "p", "q"])])


def made(folder):
    return open_bundle(folder / "models/net/1").manifest


@pytest.mark.parametrize("shape", ["3,9,12", "x=3,9,12", "1,3,9,12", "x=7,3,9,12"])
def test_open_sizes_are_given_with_rows_or_without(tmp_path, shape):
    done = bundle(OPEN, tmp_path, "--input-shape", shape)
    assert done.returncode == 0, done.stderr
    assert made(tmp_path).inputs[0].shape == [None, 3, 9, 12]
    assert made(tmp_path).outputs[0].shape == [None, 4, 7, 10]


def test_a_name_is_one_size_in_every_input(tmp_path):
    done = bundle(two_pictures(), tmp_path, "--input-shape", "x=3,9,12")
    assert done.returncode == 0, done.stderr
    assert [spec.shape for spec in made(tmp_path).inputs] == [[None, 3, 9, 12]] * 2
    assert made(tmp_path).outputs[0].shape == [None, 4, 7, 10]


def of_a_matrix() -> onnx.ModelProto:
    """V nodes of a graph with 6 features each, and how they are joined, V × V."""
    nodes = [node("MatMul", "adj x", "a"), node("Gemm", "a w", "h"), norm("h", "y")]
    arrays = {"w": weights(6, 4), **norm_arrays(4)}
    return model(nodes, arrays, {"adj": ["V", "V"], "x": ["V", 6]}, [value("y", ["V", 4])])


@pytest.mark.parametrize("given", ["V=5", "adj=5,5"])
def test_a_size_that_is_the_first_axis_too_is_no_number_of_rows(tmp_path, given):
    account, _ = folded(of_a_matrix(), tmp_path, "--input-shape", given)
    assert account["folded"] == 1
    found = [value.type.tensor_type.shape.dim for value in onnx.load(tmp_path / "out.onnx").graph.input]
    assert [[dim.dim_value for dim in dims] for dims in found] == [[5, 5], [5, 6]]


def test_a_range_of_such_a_size_is_refused(tmp_path):
    onnx.save(of_a_matrix(), tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx", "--input-shape", "V=3..6")
    assert_refused(done, "'V' is also the first size of an input, its rows: give it one number, V=3")


def test_rows_that_only_share_the_name_of_a_size_stay_open(tmp_path):
    """An exporter may have called height and rows N; a shape without rows says nothing of them."""
    proto = model(CONV, ARRAYS, {"x": ["N", 3, "N", "N"]}, [value("n", ["N", 4, "a", "b"])])
    assert folded(proto, tmp_path, "--input-shape", "3,8,8")[0]["folded"] == 1
    dims = onnx.load(tmp_path / "out.onnx").graph.input[0].type.tensor_type.shape.dim
    assert (dims[0].dim_param, [dim.dim_value for dim in dims[1:]]) == ("N", [3, 8, 8])


def test_sizes_in_a_folded_file_are_fixed_and_its_rows_stay_open(tmp_path):
    """So `--pad`, which needs them, has them."""
    nodes = [norm("x", "n"), node("Conv", "n w", "h", pads=[1] * 4), node("Relu", "h", "y")]
    proto = model(nodes, {"w": weights(4, 3, 3, 3), **norm_arrays(3)}, {"x": ["N", 3, "H", "W"]})
    assert folded(proto, tmp_path, "--pad")[0]["declined"] == 1
    assert folded(proto, tmp_path, "--pad", "--input-shape", "3,8,8")[0]["folded"] == 1
    dims = onnx.load(tmp_path / "out.onnx").graph.input[0].type.tensor_type.shape.dim
    assert (dims[0].dim_param, [dim.dim_value for dim in dims[1:]]) == ("N", [3, 8, 8])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (["3,9"], "2 sizes"),
        (["4,9,12"], "axis 1 of 'x' is 3 in the file, got 4"),
        (["q=3,9,12"], "there is no input 'q', the inputs are 'x'"),
        (["3,9,12", "3,8,8"], "each input once"),
    ],
)
def test_sizes_that_do_not_fit_are_one_sentence(tmp_path, shapes, message):
    assert_refused(bundle(OPEN, tmp_path, *(f"--input-shape={shape}" for shape in shapes)), message)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (["3,9,12"], "must name its input"),
        (["x=3,9,12", "z=3,9,13"], "'W' of 'z' is 13, elsewhere 12"),
    ],
)
def test_sizes_of_two_inputs_must_agree(tmp_path, shapes, message):
    assert_refused(bundle(two_pictures(), tmp_path, *(f"--input-shape={shape}" for shape in shapes)), message)


def test_open_sizes_are_refused_with_what_to_do(tmp_path):
    assert_refused(bundle(OPEN, tmp_path), "--input-shape")


def test_rows_of_one_input_are_another_axis_of_the_next(tmp_path):
    """F06: an LSTM's state is (layers, rows, hidden)."""
    nodes = [*CONV, node("ReduceMean", "n", "m", axes=[2, 3], keepdims=0), node("Add", "m state", "y")]
    assert_all_fold(model(nodes, ARRAYS, {"x": ["N", 3, 8, 8], "state": [1, "N", 4]}), tmp_path)
