"""What a graph chooses inside, as a detector's TopK of boxes, is proved on rows that no tie decides."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.graph.prepare import prepare
from export.proof.choices import inner_choices
from export_kit import assert_refused, run_here
from file_kit import model, node, norm, norm_arrays, value, weights
from service.contract.bundle import open_bundle

PLACES = 36


def detector(flatness: float, count: list[int] | None = None, kind: str = "TopK") -> onnx.ModelProto:
    """Boxes (N, 36) that differ from place to place; scores 1 + flatness · h; the boxes of the largest."""
    nodes = [node("Conv", "x w", "h"), norm("h", "n"), node("ReduceMax", "n", "m", axes=[1], keepdims=0)]
    nodes += [node("Mul", "m flatness", "f"), node("Reshape", "f flat", "s"), node("Reshape", "m flat", "b")]
    nodes += [node("Add", "s one", "scores"), node("Add", "b grid", "boxes")]
    if kind == "TopK":
        nodes.append(node("TopK", "scores k", "v i", axis=1))
    else:
        nodes.append(node(kind, "scores", "i", axis=1, keepdims=1))
    nodes.append(node("GatherElements", "boxes i", "y", axis=1))
    arrays = {
        "w": weights(4, 3, 3, 3),
        **norm_arrays(4),
        "flatness": np.float32(flatness),
        "one": np.float32(1),
        "flat": np.array([0, PLACES]),
        "grid": 100 * np.arange(PLACES, dtype=np.float32),
        "k": np.array(count or [3]),
    }
    return model(nodes, arrays, {"x": ["N", 3, 8, 8]}, [value("y", None)], opset=13)


@pytest.mark.parametrize("kind", ["TopK", "ArgMax", "ArgMin"])
def test_rows_that_no_tie_decides_are_kept(tmp_path, kind):
    """Zeros and ones are one number in all places, and so are their scores."""
    onnx.save(detector(1.0, kind=kind), tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "models/m")
    assert done.returncode == 0, done.stderr
    golden = open_bundle(tmp_path / "models/m/1").golden
    assert golden.num_rows >= 32
    assert np.ptp(golden.inputs["x"], axis=(2, 3)).min() > 0


def test_more_rows_are_drawn_where_many_tie(tmp_path):
    onnx.save(detector(1.5e-5, [5]), tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "models/m")
    assert done.returncode == 0, done.stderr
    assert open_bundle(tmp_path / "models/m/1").golden.num_rows >= 32


def test_where_all_tie_the_refusal_names_what_chooses(tmp_path):
    onnx.save(detector(1e-9), tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "models/m")
    assert_refused(done, "chooses inside the graph, and where its scores are nearly equal, rounding decides")


def test_ties_that_change_nothing_refuse_nothing(tmp_path):
    """All scores are 1: the first places are chosen, in every run."""
    onnx.save(detector(0.0), tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "models/m")
    assert done.returncode == 0, done.stderr


def test_integers_are_no_matter_of_rounding():
    """The place of the last token of a text, as in CLIP."""
    nodes = [node("ArgMax", "x", "i", axis=1, keepdims=1), node("Cast", "x", "f", to=onnx.TensorProto.FLOAT)]
    nodes.append(node("GatherElements", "f i", "y", axis=1))
    proto = model(nodes, {}, {"x": ["N", 7]}, [value("y", ["N", 1])], opset=13)
    assert len(inner_choices(prepare(ir.from_proto(proto)))) == 1
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    assert inner_choices(prepare(ir.from_proto(proto))) == []
