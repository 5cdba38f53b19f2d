"""A file without BatchNorms: written as it is, at once, with a word on what stands in their place."""

import json

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
    [((1, 4, 1, 1), 1), ((4, 1, 1), 1), ((1,), 0), ((), 0), ((1, 4, 6, 6), 0), ((6,), 0)],
)
def test_what_exporters_write_for_a_batchnorm_is_counted(tmp_path, shape, count):
    """Between two ops that take no scale; the last shape varies along another axis than the channels'."""
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
    before, after = (onnx.load(tmp_path / name).graph for name in ("in.onnx", "out.onnx"))
    assert [one.op_type for one in before.node] == [one.op_type for one in after.node]
    assert [one.raw_data for one in before.initializer] == [one.raw_data for one in after.initializer]


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
