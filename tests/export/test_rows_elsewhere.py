"""Files whose inputs or outputs have their rows on another axis, or none: served with rows first."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from export.commands.shared import values
from export.compute.texts import texts_apart
from export.errors import SourceError
from export_kit import assert_refused, run_here
from file_kit import branch, folded, model, node, norm, norm_arrays, value, weights
from service.contract.bundle import open_bundle

ARRAYS = {"d": weights(6, 4), "one": np.array([1]), **norm_arrays(4)}
LINEAR = [node("Gemm", "x d", "h"), norm("h", "n"), node("Unsqueeze", "n zero", "t")]
STATE = [node("Add", "s t", "s2"), node("ReduceMean", "s2", "y", axes=[0], keepdims=0)]


def voice(batch: int | str = "N", state: int | str = "N") -> onnx.ModelProto:
    """As silero-vad: rows on axis 1 of a state of two layers; a number chooses a branch, and noise fails."""
    branches = {
        "then_branch": branch([node("Identity", "x", "a")], "a"),
        "else_branch": branch(
            [node("Add", "places sr", "p"), node("Gather", "x p", "c", axis=1)], "c", places=np.full(6, -99)
        ),
    }
    nodes = [node("Equal", "sr high", "is"), node("If", "is", "g", **branches)]
    nodes += [node("Gemm", "g d", "h"), *LINEAR[1:], *STATE]
    arrays = {**ARRAYS, "zero": np.array([0]), "high": np.array(16000)}
    inputs = [value("x", [batch, 6]), value("s", [2, state, 4]), value("sr", [], TensorProto.INT64)]
    proto = model(nodes, arrays, {}, [value("y", [batch, 4]), value("s2", [2, state, 4])])
    proto.graph.input.extend(inputs)
    return proto


def bundle(
    proto: onnx.ModelProto, folder: Path, *flags: object
) -> tuple[dict[str, object], ort.InferenceSession]:
    onnx.save(proto, folder / "in.onnx")
    done = run_here("bundle", folder / "in.onnx", "--to", folder / "m", *flags)
    assert done.returncode == 0, done.stderr
    session = ort.InferenceSession(folder / "m/1/model.onnx", providers=["CPUExecutionProvider"])
    return json.loads(done.stdout), session


@pytest.mark.parametrize(("batch", "state"), [("N", "N"), ("?", "?"), (1, 1)])
def test_a_state_with_layers_first_and_an_input_that_is_always_one_number(tmp_path, batch, state):
    facts, session = bundle(voice(batch, state), tmp_path, "--input-value", "sr=16000")
    manifest = open_bundle(tmp_path / "m/1").manifest
    assert facts["found"] == facts["folded"] + facts["reduced"] == 1
    assert manifest.max_rows is None
    assert [spec.shape for spec in manifest.inputs] == [[None, 6], [None, 2, 4]]
    assert manifest.provenance.source == (
        "ONNX file in.onnx; 'sr' is always 16000; 's' has its rows first; 's2' has its rows first"
    )
    chance = np.random.default_rng(1)
    rows = {"x": chance.normal(size=(3, 6)), "s": chance.normal(size=(3, 2, 4))}
    rows = {name: array.astype(np.float32) for name, array in rows.items()}
    y, s2 = session.run(["y", "s2"], rows)
    itself = ort.InferenceSession(tmp_path / "in.onnx", providers=["CPUExecutionProvider"])
    for row in range(3):
        given = {"x": rows["x"][row : row + 1], "s": rows["s"][row][:, np.newaxis], "sr": np.array(16000)}
        answers = itself.run(["y", "s2"], given)
        np.testing.assert_allclose(y[row], answers[0][0], atol=1e-5)
        np.testing.assert_allclose(s2[row], answers[1][:, 0], atol=1e-5)


X = ["N", 3, 8, 8]
CONV = [node("Conv", "x w", "h"), norm("h", "n")]
PICTURES = {"w": weights(4, 3, 3, 3), **norm_arrays(4)}
TIME_FIRST = [
    *CONV,
    node("ReduceMean", "n", "m", axes=[3], keepdims=0),
    node("Transpose", "m", "y", perm=[2, 0, 1]),
]
ONE_CALL = {
    "an answer of one number": (
        model([*CONV, node("ReduceMean", "n", "y", keepdims=0)], PICTURES, {"x": X}, [value("y", [])]),
        [[None, 3, 8, 8]],
        [None],
    ),
    "an input of one number": (
        model([*CONV, node("Mul", "n rate", "y")], PICTURES, {"x": X, "rate": []}),
        [[None, 3, 8, 8], [None]],
        [None, 4, 6, 6],
    ),
    "a table for all rows": (
        model([*CONV, node("ReduceMean", "n", "m", axes=[2, 3], keepdims=0), node("MatMul", "m k", "y")],
              PICTURES, {"x": X, "k": [4, 5]}),
        [[None, 3, 8, 8], [None, 4, 5]],
        [None, 5],
    ),
    "a picture alone": (
        model([node("Unsqueeze", "x zero", "x1"), node("Conv", "x1 w", "h"), norm("h", "n"),
               node("ReduceMean", "n", "y", axes=[0, 2, 3], keepdims=0)],
              {**PICTURES, "zero": np.array([0])}, {"x": X[1:]}, [value("y", [4])]),
        [[None, 3, 8, 8]],
        [None, 4],
    ),
    "a picture that becomes one of as many channels": (
        model([node("Unsqueeze", "x zero", "x1"), node("Conv", "x1 v", "h"), norm("h", "n", "three"),
               node("Squeeze", "n zero", "y")],
              {"v": weights(3, 3, 1, 1), "zero": np.array([0]), **norm_arrays(3, prefix="three")},
              {"x": X[1:]}, [value("y", X[1:])]),
        [[None, 3, 8, 8]],
        [None, 3, 8, 8],
    ),
    "a vector": (
        model([node("Unsqueeze", "x zero", "x1"), node("Gemm", "x1 d", "h"), norm("h", "n"),
               node("ReduceSum", "n", "y", keepdims=0)],
              {"d": weights(6, 4), "zero": np.array([0]), **norm_arrays(4)}, {"x": [6]}, [value("y", [])]),
        [[None, 6]],
        [None],
    ),
    "time first, declared as rows, of one row": (
        model(
            [*CONV, node("Reshape", "n s", "m"), node("Transpose", "m", "y", perm=[2, 0, 1])],
            {**PICTURES, "s": np.array([1, 24, 6])}, {"x": [1, *X[1:]]}, [value("y", [1, "length"])]),
        [[None, 3, 8, 8]],
        [None, 6, 24],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("proto", "inputs", "output"), ONE_CALL.values(), ids=ONE_CALL)
def test_where_no_axis_is_that_of_the_rows_one_call_is_one_row(tmp_path, proto, inputs, output):
    _, session = bundle(proto, tmp_path)
    manifest = open_bundle(tmp_path / "m/1").manifest
    assert manifest.max_rows in (1, None)
    assert [spec.shape for spec in manifest.inputs] == inputs
    assert manifest.outputs[0].shape == output
    itself = ort.InferenceSession(tmp_path / "in.onnx", providers=["CPUExecutionProvider"])
    chance = np.random.default_rng(1)
    rows = {
        spec.name: chance.normal(size=(1, *spec.row_shape)).astype(np.float32) for spec in manifest.inputs
    }
    given = {
        each.name: rows[each.name].reshape([size if isinstance(size, int) else 1 for size in each.shape])
        for each in itself.get_inputs()
    }
    answer, expected = session.run(["y"], rows)[0], itself.run(["y"], given)[0]
    np.testing.assert_allclose(answer.ravel(), expected.ravel(), atol=1e-5)


def test_many_rows_share_a_batch_where_time_is_first(tmp_path):
    proto = model(TIME_FIRST, PICTURES, {"x": X}, [value("y", [6, "N", 4])])
    _, session = bundle(proto, tmp_path)
    manifest = open_bundle(tmp_path / "m/1").manifest
    assert (manifest.max_rows, manifest.outputs[0].shape) == (None, [None, 6, 4])
    rows = np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32)
    itself = ort.InferenceSession(tmp_path / "in.onnx", providers=["CPUExecutionProvider"])
    expected = itself.run(None, {"x": rows})[0]
    np.testing.assert_allclose(session.run(None, {"x": rows})[0], expected.swapaxes(0, 1), atol=1e-5)


def classifier() -> onnx.ModelProto:
    """As scikit-learn's converter writes one without ZipMap: a text for each row, and the probabilities."""
    texts = {"keys_int64s": [0, 1, 2, 3], "values_strings": ["ant", "bee", "cat", "dog"]}
    nodes = [node("Gemm", "x d", "h"), norm("h", "n"), node("Softmax", "n", "p", axis=1)]
    nodes += [node("ArgMax", "p", "a", axis=1, keepdims=0)]
    nodes += [node("LabelEncoder", "a", "label", domain="ai.onnx.ml", **texts)]
    outputs = [value("label", ["N"], TensorProto.STRING), value("p", ["N", 4])]
    proto = model(nodes, ARRAYS, {"x": ["N", 6]}, outputs, extra_domain="ai.onnx.ml")
    proto.opset_import[1].version = 2
    return proto


def test_texts_are_left_out_of_a_bundle_and_become_its_labels(tmp_path):
    bundle(classifier(), tmp_path)
    manifest = open_bundle(tmp_path / "m/1").manifest
    assert [spec.name for spec in manifest.outputs] == ["p"]
    assert manifest.labels == ["ant", "bee", "cat", "dog"]
    assert manifest.provenance.source == "ONNX file in.onnx; 'label' is text, and left out"


def test_texts_stay_in_a_folded_file_and_must_be_equal(tmp_path):
    account, ops = folded(classifier(), tmp_path)
    assert account["folded"] == 1
    assert "LabelEncoder" in ops
    one, other = {"y": np.array(["a", "b"], dtype=object)}, {"y": np.array(["a", "c"], dtype=object)}
    assert texts_apart(one, one) is None
    assert texts_apart(one, other) == "output 'y' is another text in 50.0% of its places"


def test_an_input_of_one_number_that_noise_does_not_fit_asks_for_it(tmp_path):
    onnx.save(voice(), tmp_path / "in.onnx")
    assert_refused(
        run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "m"),
        "input 'sr' is one number: --input-value sr=NUMBER makes it part of the graph, --rows FILE.npz gives",
    )
    for wrong in ("sr", "sr=fast", "other=1", "sr=0.5"):
        done = run_here("fold", tmp_path / "in.onnx", tmp_path / "o.onnx", "--input-value", wrong)
        assert_refused(done, "--input-value")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "o.onnx", "--input-value", "sr=16000")
    assert json.loads(done.stdout)["folded"] + json.loads(done.stdout)["reduced"] == 1
    assert [given.name for given in onnx.load(tmp_path / "o.onnx").graph.input] == ["x", "s"]


def test_a_number_may_be_true_or_false():
    assert values(["sr=16000", "a=false", "b=True", "c=d=0.5"]) == {"sr": 16000, "a": 0, "b": 1, "c=d": 0.5}


@pytest.mark.parametrize("again", ["sr=1", "sr=2", "sr=fast", "=1"])
def test_a_number_is_given_once(again):
    with pytest.raises(SourceError, match=f"each name once, got '{again}'"):
        values(["sr=1", "a=0", again])
