"""BatchNorms whose parameters do not fit their channels, and weights that are non-finite: one sentence,
even where nothing is run.
"""

import json

import numpy as np
import onnx
import pytest

from export_kit import assert_refused, run_here
from file_kit import model, node, norm, norm_arrays, weights

CHANNELS = 4
SIZES = {
    "one is shorter": ({"bn.gamma": 3}, "γ has 3, β has 4, μ has 4, σ² has 4"),
    "one is a single number in a row": ({"bn.mean": 1}, "μ has 1"),
    "all are longer than the channels": (
        dict.fromkeys(norm_arrays(1), 5),
        "σ² has 5, its input has 4, expected one number for each channel",
    ),
    "all broadcast": (dict.fromkeys(norm_arrays(1), (1, 4, 1, 1)), "γ has shape (1, 4, 1, 1)"),
    "one broadcasts": ({"bn.var": (1, 4)}, "σ² has shape (1, 4), expected one axis"),
    "one is a bare number": ({"bn.beta": ()}, "β has shape ()"),
}


@pytest.mark.parametrize("before", ["Conv", "Sigmoid"])
@pytest.mark.parametrize(("shapes", "words"), SIZES.values(), ids=SIZES)
def test_parameters_that_do_not_fit_the_channels(tmp_path, before, shapes, words):
    first = node("Conv", "x w", "h") if before == "Conv" else node("Sigmoid", "x", "h")
    nodes = [first, norm("h", "n"), node("Conv", "n w2", "y")]
    arrays = {"w": weights(CHANNELS, CHANNELS, 3, 3), "w2": weights(2, CHANNELS, 1, 1)}
    arrays |= norm_arrays(CHANNELS)
    arrays |= {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    onnx.save(model(nodes, arrays, {"x": ["N", CHANNELS, 8, 8]}), tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx", "--no-proof")
    assert_refused(done, f"BatchNorm 'BatchNormalization_n': {words}" if "γ" in words else words)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("spoilt", ["w", "b"])
@pytest.mark.parametrize("first", ["Conv", "Relu"])
def test_weights_that_are_non_finite_as_they_were_read(tmp_path, first, spoilt):
    """Before the BatchNorm, and after it: it stays, and that is said once."""
    arrays = {"w": weights(4, 4, 1, 1), "b": np.zeros(4, np.float32), **norm_arrays(4)}
    arrays[spoilt].flat[1] = np.nan
    conv = node("Conv", "x w b" if first == "Conv" else "n w b", "h" if first == "Conv" else "y")
    nodes = [conv, norm("h", "y")] if first == "Conv" else [node("Relu", "x", "h"), norm("h", "n"), conv]
    onnx.save(model(nodes, arrays, {"x": ["N", 4, 8, 8]}), tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx", "--no-proof")
    (site,) = json.loads(done.stdout)["sites"]
    name = "Conv_h" if first == "Conv" else "Conv_y"
    assert site["reason"] == f"the weights of '{name}' are non-finite as they were read"
