"""A file without BatchNorms: written as it is, at once, with a word on what stands in their place."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest

from export_kit import run_here
from file_kit import model, node, weights

SCALED = [node("Conv", "x w", "h"), node("Tanh", "h", "t"), node("Mul", "t g", "m"), node("Add", "m b", "a")]
SCALED += [node("Tanh", "a", "y")]


def scaled(**arrays: np.ndarray) -> onnx.ModelProto:
    return model(SCALED, {"w": weights(4, 3, 3, 3), **arrays}, {"x": ["N", 3, 8, 8]})


def fold(proto: onnx.ModelProto, folder):
    onnx.save(proto, folder / "in.onnx")
    return run_here("fold", folder / "in.onnx", folder / "out.onnx")


@pytest.mark.parametrize(
    ("shape", "count"),
    [((1, 4, 1, 1), 1), ((4, 1, 1), 1), ((1,), 0), ((), 0), ((1, 4, 6, 6), 0), ((6,), 1)],
)
def test_what_exporters_write_for_a_batchnorm_is_counted(tmp_path, shape, count):
    """Between two ops that take no scale; the last shape is of channels that come last."""
    random = np.random.default_rng(0)
    arrays = {name: random.normal(size=shape).astype(np.float32) for name in "gb"}
    done = fold(scaled(**arrays), tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"nothing to fold: 0 BatchNormalization, {count} per-channel Mul/Add" in done.stderr
    assert len(json.loads(done.stdout).get("per_channel", [])) == count


def test_a_bias_is_not_counted(tmp_path):
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "y")]
    done = fold(model(nodes, {"w": weights(3, 4), "b": np.ones(4, np.float32)}, {"x": ["N", 3]}), tmp_path)
    assert "0 per-channel" in done.stderr


def test_the_file_is_written_as_it_was(tmp_path):
    done = fold(scaled(g=np.ones(1, np.float32), b=np.ones(1, np.float32)), tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()


def test_weights_beside_a_file_are_in_the_one_that_is_written(tmp_path):
    arrays = {"w": weights(4, 3, 3, 3), "g": np.ones(1, np.float32), "b": np.ones(1, np.float32)}
    onnx.save(
        model(SCALED, arrays, {"x": ["N", 3, 8, 8]}),
        tmp_path / "in.onnx",
        save_as_external_data=True,
        location="w",
        size_threshold=0,
    )
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert done.returncode == 0, done.stderr
    written = onnx.load(tmp_path / "out.onnx", load_external_data=False).graph
    assert [array.raw_data for array in written.initializer] == [array.tobytes() for array in arrays.values()]


def test_what_no_fold_asks_for_is_not_executed(tmp_path):
    """sympy takes a third of all the time; arithmetic of sizes finds it when it asks for it."""
    onnx.save(scaled(g=np.ones(1, np.float32), b=np.ones(1, np.float32)), tmp_path / "in.onnx")
    script = (
        "import sys; from export.__main__ import main\n"
        f"assert main(['fold', {str(tmp_path / 'in.onnx')!r}, {str(tmp_path / 'out.onnx')!r}]) == 0\n"
        "assert 'sympy.core' not in sys.modules\n"
        "import onnx_ir; assert (onnx_ir.SymbolicDim('2*a') + 1).evaluate({'a': 3}) == 7\n"
        "from sympy.core.expr import Expr; import sympy; assert sympy.Expr is Expr\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_weights_among_the_inputs_of_an_early_file_need_no_size(tmp_path):
    """IR version 3 lists them there."""
    proto = model(
        [node("Conv", "x w", "y")],
        {"w": weights(4, 3, 3, 3)},
        {"x": ["N", 3, "H", "W"], "w": [4, 3, 3, 3]},
        opset=8,
    )
    proto.ir_version = 3
    onnx.save(proto, tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx", "--input-shape", "3,8,8")
    assert done.returncode == 0, done.stderr
    assert [given.name for given in onnx.load(tmp_path / "out.onnx").graph.input] == ["x", "w"]
