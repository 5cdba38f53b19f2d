"""Recognizers of text and speech, as torch's older exporter writes them: time first, sizes by computation."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from export_kit import run_here
from file_kit import folded, model, node, norm, norm_arrays, value, weights
from service.contract.bundle import open_bundle

SIZES = [node("Gather", f"shape {axis}", f"size{axis}") for axis in (0, 1, 2)]
FLATTEN = [  # (T, N, C) to (T·N, C), as reshape(t * n, c) is traced
    node("Shape", "t", "shape"),
    *SIZES,
    node("Mul", "size0 size1", "merged"),
    *[node("Unsqueeze", name, f"{name}v", axes=[0]) for name in ("merged", "size0", "size1", "size2")],
    node("Concat", "mergedv size2v", "flat", axis=0),
    node("Reshape", "t flat", "f"),
    norm("f", "n"),
    node("MatMul", "n d", "g"),
    node("Concat", "size0v size1v five", "back", axis=0),
    node("Reshape", "g back", "y"),
]
ARRAYS = {
    "d": weights(6, 5),
    **{str(axis): np.array(axis) for axis in range(3)},
    "zero": np.array([0]),
    "five": np.array([5]),
    **norm_arrays(6),
}


def recognizer(width: int | str) -> onnx.ModelProto:
    """Rows of (C, W) to scores (W, N, 5); the file names no size of its answer that it does not know."""
    nodes = [node("Tanh", "x", "h"), node("Transpose", "h", "t", perm=[2, 0, 1]), *FLATTEN]
    return model(nodes, ARRAYS, {"x": ["b", 6, width]}, [value("y", ["y_dim_0", "y_dim_1", 5])], opset=12)


@pytest.mark.parametrize(("width", "flags"), [(7, []), ("w", ["--input-shape", "6,3..9"])])
def test_its_batchnorm_folds_and_its_answers_have_rows_first(tmp_path, width, flags):
    account, left = folded(recognizer(width), tmp_path, *flags)
    assert account["folded"] == account["found"] == 1
    assert "BatchNormalization" not in left
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "m", *flags)
    assert done.returncode == 0, done.stderr
    assert open_bundle(tmp_path / "m/1").manifest.max_rows is None
    rows = {"x": np.random.default_rng(0).normal(size=(3, 6, 7)).astype(np.float32)}
    providers = ["CPUExecutionProvider"]
    (served,) = ort.InferenceSession(tmp_path / "m/1/model.onnx", providers=providers).run(None, rows)
    (itself,) = ort.InferenceSession(tmp_path / "in.onnx", providers=providers).run(None, rows)
    np.testing.assert_allclose(served, itself.transpose(1, 0, 2), atol=1e-5)


def test_one_size_of_a_target_may_be_of_any_computation(tmp_path):
    """(N, 4, 6) to (4·N, 6), of which 4·N is computed from the numbers of another tensor."""
    nodes = [
        node("Shape", "x", "s"),
        node("Slice", "s zero one", "rows"),
        node("Add", "rows rows", "twice"),
        node("Mul", "twice twos", "merged"),
        node("Concat", "merged six", "flat", axis=0),
        node("Reshape", "x flat", "f"),
        node("MatMul", "f e", "h"),
        norm("h", "n"),
        node("Reshape", "n parts", "y"),
    ]
    arrays = {
        "e": weights(6, 6),
        "six": np.array([6]),
        "one": np.array([1]),
        "twos": np.array([2]),
        "zero": np.array([0]),
    }
    arrays |= {"parts": np.array([-1, 4, 6]), **norm_arrays(6)}
    account, _ = folded(model(nodes, arrays, {"x": ["N", 4, 6]}, opset=12), tmp_path)
    assert account["folded"] == account["found"] == 1
