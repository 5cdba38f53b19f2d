"""What the user says of an ONNX file's inputs: open sizes, and rows that it can compute with."""

import json

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from export.errors import ProofError, suggesting_values
from export.proof.golden import blended_inputs
from export_kit import assert_refused, run_here
from file_kit import assert_all_fold, folded, model, node, norm, norm_arrays, value, weights
from service.contract.bundle import open_bundle
from service_kit import serving

CONV = [node("Conv", "x w", "h"), norm("h", "n")]
ARRAYS = {"w": weights(4, 3, 3, 3), **norm_arrays(4)}
OPEN = model(CONV, ARRAYS, {"x": ["N", 3, "H", "W"]}, [value("n", ["N", 4, "a", "b"])])


def two_pictures() -> onnx.ModelProto:
    """Two pictures that share H and W by name; their sum has sizes that only a run can tell."""
    nodes = [node("Add", "x z", "s"), node("Conv", "s w", "h"), norm("h", "n"), node("Mul", "n one", "y")]
    inputs = {"x": ["N", 3, "H", "W"], "z": ["N", 3, "H", "W"]}
    return model(nodes, {**ARRAYS, "one": np.float32(2)}, inputs, [value("y", ["N", "c", "p", "q"])])


def bundle(proto, folder, *flags):
    onnx.save(proto, folder / "in.onnx")
    return run_here("bundle", folder / "in.onnx", "--to", folder / "models/net", *flags)


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


def merged_rows() -> onnx.ModelProto:
    """One row only: a Squeeze of the rows' axis (F15)."""
    axes = {"a": np.array([0])}
    nodes = [*CONV, node("Squeeze", "n a", "q"), node("Relu", "q", "r"), node("Unsqueeze", "r a", "y")]
    return model(nodes, {**ARRAYS, **axes}, {"x": [1, 3, 8, 8]}, [value("y", [1, 4, 6, 6])])


def class_token() -> onnx.ModelProto:
    """One row only: a token (1, 1, 4) before the positions, where rows would have to be repeated."""
    nodes = [*CONV, node("Reshape", "n s", "p"), node("Transpose", "p", "t", perm=[0, 2, 1])]
    nodes += [node("Concat", "token t", "c", axis=1), node("ReduceMean", "c", "y", axes=[1], keepdims=0)]
    arrays = {**ARRAYS, "s": np.array([1, 4, 36]), "token": weights(1, 1, 4)}
    return model(nodes, arrays, {"x": [1, 3, 8, 8]}, [value("y", [1, 4])])


def sums_over_rows() -> onnx.ModelProto:
    """It runs with any number of rows, and mixes them."""
    nodes = [*CONV, node("ReduceMean", "n", "m", axes=[0], keepdims=1), node("Add", "n m", "y")]
    return model(nodes, ARRAYS, {"x": [1, 3, 8, 8]}, [value("y", [1, 4, 6, 6])])


def positions_first() -> onnx.ModelProto:
    """As torch writes attention: a Reshape whose first size, 1, does not stand for the rows."""
    nodes = [
        *CONV,
        node("Reshape", "n s", "p"),
        node("Transpose", "p", "t", perm=[2, 0, 1]),
        node("Reshape", "t u", "q"),
        node("ReduceMean", "q", "y", axes=[1], keepdims=0),
    ]
    arrays = {**ARRAYS, "s": np.array([1, 4, 36]), "u": np.array([1, 36, 4])}
    return model(nodes, arrays, {"x": [1, 3, 8, 8]}, [value("y", [1, 4])])


@pytest.mark.parametrize("proto", [merged_rows(), class_token(), sums_over_rows(), positions_first()])
def test_a_graph_of_one_row_is_bundled_as_it_is(tmp_path, proto):
    done = bundle(proto, tmp_path)
    assert done.returncode == 0, done.stderr
    assert made(tmp_path).max_rows == 1
    assert json.loads(done.stdout)["folded"] == 1
    assert run_here("verify", tmp_path / "models/net/1").returncode == 0


def test_a_graph_whose_rows_are_independent_takes_many(tmp_path):
    proto = model(CONV, ARRAYS, {"x": [1, 3, 8, 8]}, [value("n", [1, 4, 6, 6])])
    assert bundle(proto, tmp_path).returncode == 0
    assert made(tmp_path).max_rows is None


def test_a_graph_of_one_row_answers_one_at_a_time(tmp_path):
    assert bundle(merged_rows(), tmp_path).returncode == 0
    golden = open_bundle(tmp_path / "models/net/1").golden
    with serving(tmp_path / "models") as server:
        for rows in (slice(0, 1), slice(3, 4), slice(0, 5)):  # several travel as pieces of one row
            answer = _ask(server.url, golden.inputs["x"][rows])
            assert answer.status_code == 200, answer.text
            expected = golden.outputs["y"][rows]
            data = np.reshape(answer.json()["outputs"][0]["data"], expected.shape)
            np.testing.assert_allclose(data, expected, atol=1e-4)


def _ask(url: str, rows: np.ndarray) -> httpx.Response:
    tensor = {"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    return httpx.post(f"{url}/v2/models/net/infer", json={"inputs": [tensor]})


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
