"""Files whose answers cannot be compared or served: one sentence that names what, and what to try."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.compute.flips import with_flips
from export.compute.truth import graph_truth
from export.errors import ParityError
from export.fold.proved import FoldOptions, fold_once
from export.graph.file import load_graph, serialize
from export.graph.prepare import prepare
from export.proof.prove import prove_once
from export_kit import assert_refused, run_here
from file_kit import model, node, norm, norm_arrays, value, weights
from service.contract.bundle import open_bundle

X = {"x": ["N", 3, 8, 8]}
ARRAYS = {"w": weights(4, 3, 3, 3), **norm_arrays(4)}
CONV = [node("Conv", "x w", "h"), norm("h", "n")]
POOLED = [*CONV, node("ReduceMean", "n", "m", axes=[2, 3], keepdims=0)]


def labels() -> onnx.ModelProto:
    """As from scikit-learn's converter: the answer is a text."""
    nodes = [*POOLED, node("ArgMax", "m", "a", axis=1, keepdims=0)]
    texts = {"keys_int64s": [0, 1, 2, 3], "values_strings": ["a", "b", "c", "d"]}
    nodes.append(node("LabelEncoder", "a", "y", domain="ai.onnx.ml", **texts))
    proto = model(nodes, ARRAYS, X, [value("y", ["N"], TensorProto.STRING)], extra_domain="ai.onnx.ml")
    proto.opset_import[1].version = 2
    return proto


def boxes() -> onnx.ModelProto:
    """A detector with its NonMaxSuppression in the graph."""
    nodes = [
        *CONV,
        node("Reshape", "n s", "b"),
        node("ReduceMax", "b", "c", axes=[2], keepdims=0),
        node("Unsqueeze", "c one", "d"),
        node("NonMaxSuppression", "b d five", "y"),
    ]
    arrays = {**ARRAYS, "s": np.array([0, -1, 4]), "one": np.array([1]), "five": np.array([5])}
    return model(nodes, arrays, X, [value("y", [None, 3], TensorProto.INT64)])


def with_nan() -> onnx.ModelProto:
    return model(CONV, {**ARRAYS, "w": np.full((4, 3, 3, 3), np.nan, np.float32)}, X, ["n"])


def merged_rows() -> onnx.ModelProto:
    nodes = [*CONV, node("Reshape", "n s", "q"), node("ReduceMean", "q", "y", axes=[1])]
    return model(nodes, {**ARRAYS, "s": np.array([2, 288])}, {"x": [4, 3, 8, 8]})


SEQUENCE = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
DROPPED = {**ARRAYS, "half": np.float32(0.5), "yes": np.array(True)}
REFUSED = {
    "text": (
        labels(),
        "fold",
        "output 'y' is STRING, and only tensors of numbers can be compared: cut",
    ),
    "text in a bundle": (
        labels(),
        "bundle",
        "which no client could send: cut the graph before it with",
    ),
    "a sequence": (
        model([*CONV, node("SequenceConstruct", "n n", "y")], ARRAYS, X, [SEQUENCE]),
        "bundle",
        "only tensors are served: cut the graph",
    ),
    "noise": (
        model([*CONV, node("RandomNormalLike", "n", "r"), node("Add", "n r", "y")], ARRAYS, X),
        "fold",
        "RandomNormalLike 'RandomNormalLike_r' draws random numbers",
    ),
    "Dropout in training": (
        model([*CONV, node("Dropout", "n half yes", "y")], DROPPED, X),
        "fold",
        "Dropout 'Dropout_y' draws random numbers, so that no two runs are alike",
    ),
    "NaN in a weight": (with_nan(), "fold", "the weight 'w' holds NaN"),
    "boxes": (
        boxes(),
        "bundle",
        "NonMaxSuppression 'NonMaxSuppression_y' answers as many numbers as",
    ),
    "four merged rows": (
        merged_rows(),
        "bundle",
        "its 4 rows are fixed, and it cannot answer one alone",
    ),
    "no rank": (model(CONV, ARRAYS, {"x": None}, ["n"]), "fold", "no rank"),
    "no rank in a bundle": (
        model(CONV, ARRAYS, {"x": None}, ["n"]),
        "bundle",
        "--input-shape x=C,H,W gives",
    ),
}


@pytest.mark.parametrize(("proto", "verb", "sentence"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_with_what_to_try(tmp_path, proto, verb, sentence):
    onnx.save(proto, tmp_path / "in.onnx")
    to = ("--to", tmp_path / "m") if verb == "bundle" else (tmp_path / "out.onnx",)
    done = run_here(verb, tmp_path / "in.onnx", *to)
    assert_refused(done, sentence)
    assert done.stderr.count("\n") == 1
    assert "::" not in done.stderr


@pytest.mark.parametrize(
    ("proto", "flags"),
    [
        (model(CONV, ARRAYS, {"x": None}, ["n"]), ("--input-shape", "3,8,8")),
        (model(CONV, ARRAYS, X, [value("n", ["N", 9, 1, 1])]), ()),
    ],
    ids=["no rank in the file", "a wrong size in the file"],
)
def test_sizes_that_the_file_lacks_or_has_wrong(tmp_path, proto, flags):
    onnx.save(proto, tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "m", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folded"] == 1
    assert open_bundle(tmp_path / "m/1").manifest.outputs[0].shape == [None, 4, 6, 6]


def quantized() -> onnx.ModelProto:
    """Activations in uint8: near the middle of two integers, rounding alone decides."""
    arrays = {
        **ARRAYS,
        "xs": np.float32(0.03),
        "xz": np.uint8(128),
        "ys": np.float32(0.05),
        "yz": np.uint8(128),
        "w2": weights(4, 4, 3, 3, seed=1),
    }
    nodes = [
        node("QuantizeLinear", "x xs xz", "q"),
        node("DequantizeLinear", "q xs xz", "d"),
        node("Conv", "d w", "h"),
        norm("h", "n"),
        node("QuantizeLinear", "n ys yz", "r"),
        node("DequantizeLinear", "r ys yz", "e"),
        node("Conv", "e w2", "y"),
    ]
    return model(nodes, arrays, X)


def test_a_net_in_int8_is_bundled_although_a_number_may_round_the_other_way(tmp_path):
    onnx.save(quantized(), tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["found"], facts["folded"]) == (1, 1)
    assert 0.01 < facts["tolerances"]["y"]["max_abs"] < 0.25 * facts["tolerances"]["y"]["output_range"]


def test_flips_excuse_no_wrong_fold(tmp_path):
    """Negative control: β off by a few quanta moves everything, not two numbers of a tensor."""
    onnx.save(quantized(), tmp_path / "in.onnx")
    unfolded = prepare(load_graph(tmp_path / "in.onnx"))
    rows = {"x": np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)}
    truth = graph_truth(unfolded, rows)
    answers = truth.evaluate(rows)
    folded, _ = fold_once(unfolded, FoldOptions())
    noise = truth.noise(rows, answers)
    prove_once(serialize(unfolded), serialize(folded), rows, answers, noise)
    bias = next(one for one in folded.graph.initializers.values() if one.name and "bias" in one.name)
    assert bias.const_value is not None
    bias.const_value = type(bias.const_value)(bias.const_value.numpy() + np.float32(0.5))
    with pytest.raises(ParityError):
        prove_once(serialize(unfolded), serialize(folded), rows, answers, noise)


def test_a_graph_without_quantized_tensors_has_no_flips(tmp_path):
    onnx.save(model(CONV, ARRAYS, X, ["n"]), tmp_path / "in.onnx")
    assert with_flips(prepare(load_graph(tmp_path / "in.onnx")), np.random.default_rng(0)) is None


def by_batch() -> onnx.ModelProto:
    """As ONNX Runtime's dynamic quantisation writes it: one scale for all rows that come together."""
    arrays = {
        "q.w": np.random.default_rng(0).integers(-99, 99, (4, 3, 3, 3)).astype(np.int8),
        "z.w": np.int8(0),
        "s.w": np.float32(0.01),
        **norm_arrays(4),
    }
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("ConvInteger", "q q.w z z.w", "c", pads=[1] * 4),
        node("Cast", "c", "f", to=TensorProto.FLOAT),
        node("Mul", "s s.w", "both"),
        node("Mul", "f both", "h"),
        norm("h", "n"),
        node("Relu", "n", "y"),
    ]
    return model(nodes, arrays, X)


def test_a_net_that_quantizes_by_batch_is_served_one_row_at_a_time(tmp_path):
    onnx.save(by_batch(), tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    assert open_bundle(tmp_path / "m/1").manifest.max_rows == 1


def test_noise_that_an_op_does_not_take_asks_for_rows(tmp_path):
    nodes = [node("Gather", "e x", "g"), node("MatMul", "g k", "h"), norm("h", "y")]
    arrays = {"e": weights(1, 6), "k": weights(6, 4), **norm_arrays(4)}
    proto = model(nodes, arrays, {})
    proto.graph.input.append(value("x", ["N"], TensorProto.INT64))
    onnx.save(proto, tmp_path / "in.onnx")
    assert_refused(
        run_here("fold", tmp_path / "in.onnx", tmp_path / "o.onnx"), "; --rows FILE.npz gives it rows"
    )
    np.savez(tmp_path / "rows.npz", x=np.zeros(4, np.int64))
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "o.onnx", "--rows", tmp_path / "rows.npz")
    assert json.loads(done.stdout)["folded"] == 1


def test_statistics_per_position_stay(tmp_path):
    """`spatial = 0` of opset 8: each place of each channel has its own."""
    arrays = {
        name: np.broadcast_to(array[:, None, None], (4, 6, 6)).copy()
        for name, array in norm_arrays(4).items()
    }
    proto = model([CONV[0], norm("h", "y", spatial=0)], {"w": ARRAYS["w"], **arrays}, X, opset=8)
    onnx.save(proto, tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "o.onnx")
    assert "spatial = 0: its statistics are per position" in json.loads(done.stdout)["sites"][0]["reason"]


@pytest.mark.parametrize("name", ["net.ONNX", "net.pb", "net"])
def test_an_onnx_file_is_one_whatever_it_is_called(tmp_path, name):
    onnx.save(model(CONV, ARRAYS, X, ["n"]), tmp_path / "in.onnx")
    source = (tmp_path / "in.onnx").rename(tmp_path / name)
    assert json.loads(run_here("fold", source, tmp_path / "o.onnx").stdout)["folded"] == 1


@pytest.mark.parametrize("content", [b"{}", b"\x08\x04\0\0\0\0\0\0{}", b""])
def test_what_is_neither_an_onnx_file_nor_a_checkpoint(tmp_path, content):
    (tmp_path / "in.bin").write_bytes(content)
    done = run_here("fold", tmp_path / "in.bin", tmp_path / "o.onnx")
    assert_refused(done, "is not a checkpoint: File is not a zip file; weights alone go with their net")
