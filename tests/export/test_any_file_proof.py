"""Proofs of files in float16, of outputs that are chosen, and of ops that the float64 reference lacks."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from export.compute.truth import graph_truth
from export.errors import ParityError
from export.fold.stages import fold
from export.graph.file import serialize
from export.graph.prepare import prepare
from export.proof.choices import choices, showing_scores, ties
from export.proof.prove import prove_once
from export_kit import assert_refused, run_here
from file_kit import assert_all_fold, folded, model, node, norm, norm_arrays, value, weights
from service.contract.bundle import open_bundle

X = {"x": ["N", 3, 8, 8]}
CONV = [node("Conv", "x w", "h"), norm("h", "n")]
ARRAYS = {"w": weights(4, 3, 3, 3), **norm_arrays(4)}


def half(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def float16_net(depth: int = 1) -> onnx.ModelProto:
    """Float32 in and out, float16 between: what converters call keep_io_types."""
    nodes, arrays, last = [node("Cast", "x", "h0", to=TensorProto.FLOAT16)], {}, "h0"
    for index in range(depth):
        channels = 3 if index == 0 else 4
        arrays |= half(
            {f"w{index}": weights(4, channels, 3, 3, seed=index), **norm_arrays(4, index, f"bn{index}")}
        )
        nodes += [
            node("Conv", f"{last} w{index}", f"c{index}", pads=[1] * 4),
            norm(f"c{index}", f"n{index}", f"bn{index}"),
            node("Relu", f"n{index}", f"r{index}"),
        ]
        last = f"r{index}"
    return model([*nodes, node("Cast", last, "y", to=TensorProto.FLOAT)], arrays, X)


@pytest.mark.parametrize("depth", [1, 3])
def test_float16_weights_fold_within_their_own_rounding(tmp_path, depth):
    assert_all_fold(float16_net(depth), tmp_path)
    onnx.save(float16_net(depth), tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "models/m")
    assert done.returncode == 0, done.stderr
    assert open_bundle(tmp_path / "models/m/1").manifest.tolerances["y"].max_abs < 0.05


def test_a_float16_weight_that_is_wrong_by_more_than_its_rounding_is_found():
    unfolded = prepare(ir.from_proto(float16_net()))
    after, _ = fold(unfolded)
    rows = {"x": np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)}
    truth = graph_truth(unfolded, rows)
    answers = truth.evaluate(rows)
    noise = truth.noise(rows, answers)
    assert 1e-5 < noise["y"] < 1e-2, "half a unit in the last place of float16"
    prove_once(serialize(unfolded), serialize(after), rows, answers, noise)
    weight = next(v for v in after.graph.initializers.values() if v.const_value.numpy().ndim == 4)
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float16(1.05), name=weight.name)
    with pytest.raises(ParityError, match="the folded graph is not the unfolded one"):
        prove_once(serialize(unfolded), serialize(after), rows, answers, noise)


def chosen(op_type: str, **attributes: object) -> onnx.ModelProto:
    """Scores of 4 classes in 24² places, of which an op chooses."""
    nodes = [*CONV, node("Resize", "n - scales", "s", mode="linear")]
    arrays = {**ARRAYS, "scales": np.array([1, 1, 4, 4], np.float32)}
    if op_type == "TopK":
        nodes.append(node("TopK", "s k", "v y", axis=1))
        arrays["k"] = np.array([2])
    else:
        nodes.append(node(op_type, "s", "y", axis=1, keepdims=0))
    return model(nodes, arrays, X, [value("y", None, TensorProto.INT64)])


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin", "TopK"])
def test_chosen_places_are_judged_by_their_scores(tmp_path, op_type):
    onnx.save(chosen(op_type), tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert done.returncode == 0, done.stderr
    assert f"'y' is chosen by {op_type}" in done.stderr
    assert [output.name for output in onnx.load(tmp_path / "out.onnx").graph.output] == ["y"]


def test_a_flip_between_near_equal_scores_is_allowed_and_any_other_is_not():
    unfolded = prepare(ir.from_proto(chosen("ArgMax")))
    found = choices(unfolded)
    shown = showing_scores(unfolded, found)
    rows = {"x": np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)}
    truth = graph_truth(shown, rows)
    answers = truth.evaluate(rows)
    (scores,) = found[0].scores
    prove_once(serialize(shown), serialize(shown), rows, answers, truth.noise(rows, answers), found)
    flipped = {**answers, "y": answers["y"].copy()}
    flipped["y"].flat[0] += 1
    assert ties(found[0], answers[scores], 1e-7).mean() == 0
    with pytest.raises(ParityError, match="differs in 0"):
        prove_once(serialize(shown), serialize(shown), rows, flipped, truth.noise(rows, answers), found)


def test_ties_are_where_the_next_score_is_near():
    (choice,) = choices(prepare(ir.from_proto(chosen("TopK"))))
    scores = np.array([[9.0, 5.0, 1.0, 0.0], [9.0, 5.0, 4.99, 0.0], [5.01, 5.0, 1.0, 0.0]]).reshape(
        3, 4, 1, 1
    )
    assert ties(choice, scores, 0.1).reshape(3, 2).tolist() == [[False, False], [False, True], [True, True]]


def test_a_bundle_keeps_the_golden_rows_that_no_tie_decides(tmp_path):
    """Zeros make the scores of a net without biases tie."""
    nodes = [node("Conv", "x w", "h"), node("GlobalAveragePool", "h", "p"), node("Flatten", "p", "f")]
    nodes.append(node("ArgMax", "f", "y", axis=1, keepdims=0))
    proto = model(nodes, {"w": weights(4, 3, 3, 3)}, X, [value("y", ["N"], TensorProto.INT64)])
    onnx.save(proto, tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "models/m")
    assert done.returncode == 0, done.stderr
    golden = open_bundle(tmp_path / "models/m/1").golden
    assert golden.num_rows >= 32
    assert np.abs(golden.inputs["x"]).sum(axis=(1, 2, 3)).min() > 0


@pytest.mark.parametrize("op_type", ["ArgMax", "TopK"])
def test_places_of_a_graph_of_one_row_are_judged_one_row_at_a_time(tmp_path, op_type):
    """A Squeeze of all axes of size 1, the rows too: several rows at once would not even run."""
    places = {
        "ArgMax": node("ArgMax", "f", "y", axis=0, keepdims=1),
        "TopK": node("TopK", "f two", "best y", axis=0),
    }
    nodes = [
        *CONV,
        node("GlobalAveragePool", "n", "p"),
        node("Squeeze", "p", "s"),
        node("MatMul", "s d", "f"),
    ]
    nodes.append(places[op_type])
    arrays = {**ARRAYS, "d": weights(4, 5), "two": np.array([2])}
    size = 1 if op_type == "ArgMax" else 2
    proto = model(nodes, arrays, {"x": [1, 3, 8, 8]}, [value("y", [size], TensorProto.INT64)])
    onnx.save(proto, tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "models/m")
    assert done.returncode == 0, done.stderr
    assert open_bundle(tmp_path / "models/m/1").manifest.max_rows == 1


def test_a_bundle_whose_places_always_tie_is_refused(tmp_path):
    nodes = [node("Conv", "x w", "h"), node("ArgMax", "h", "y", axis=1, keepdims=0)]
    proto = model(
        nodes, {"w": np.ones((4, 3, 3, 3), np.float32)}, X, [value("y", ["N", 6, 6], TensorProto.INT64)]
    )
    onnx.save(proto, tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "models/m")
    assert_refused(done, "export the scores instead")


def test_an_op_that_the_reference_lacks_is_proved_in_float32(tmp_path):
    """DequantizeLinear of opset 13, beside a BatchNorm that folds."""
    nodes = [*CONV, node("DequantizeLinear", "q scale", "k"), node("Conv", "n k", "y")]
    random = np.random.default_rng(0)
    arrays = {**ARRAYS, "q": random.integers(-9, 9, (4, 4, 3, 3)).astype(np.int8), "scale": np.float32(0.1)}
    proto = model(nodes, arrays, X, opset=13)
    account, _ = folded(proto, tmp_path)
    assert (account["found"], account["folded"]) == (1, 1)
    assert "in ONNX Runtime, float32" in run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx").stderr
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "models/m")
    assert done.returncode == 0, done.stderr
    assert "DequantizeLinear" in open_bundle(tmp_path / "models/m/1").manifest.provenance.truth


def test_a_fused_op_of_another_domain_is_proved_in_float32(tmp_path):
    gelu = onnx.helper.make_node("Gelu", ["n"], ["y"], name="gelu", domain="com.microsoft")
    account, left = folded(model([*CONV, gelu], ARRAYS, X, extra_domain="com.microsoft"), tmp_path)
    assert (account["folded"], left) == (1, ["Conv", "Gelu"])
