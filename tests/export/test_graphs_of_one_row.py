"""Graphs that hold for one row: they are bundled as they are, and answer one row at a time."""

import json

import httpx
import numpy as np
import onnx
import pytest

from export_kit import run_here
from file_kit import bundle, model, node, norm, norm_arrays, value, weights
from service.contract.bundle import open_bundle
from service_kit import serving

CONV = [node("Conv", "x w", "h"), norm("h", "n")]
ARRAYS = {"w": weights(4, 3, 3, 3), **norm_arrays(4)}


def made(folder):
    return open_bundle(folder / "models/net/1").manifest


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
