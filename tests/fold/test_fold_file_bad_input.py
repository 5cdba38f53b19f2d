"""`python -m export fold IN OUT` on bad input: refused with one sentence, or done and proved equal.

Refused: exit code 2, one line on stderr, nothing on stdout, no new file, no changed byte.
Done: exit code 0, and ONNX Runtime's answers to IN and to OUT, both unoptimised, are equal.
What is marked as a bug is wrong today; once repaired it fails here, and becomes a plain case.
"""

import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import export.graph.file
from export.compute.reference import graph_evaluator
from export.compute.runtime import load
from export_kit import run_here
from onnx_graphs import batchnorm, batchnorm_arrays, graph, value

ROUNDING = {np.float16: 5e-3, np.float32: 1e-5, np.float64: 1e-12}
CONV = helper.make_node("Conv", ["x", "w"], ["h"], name="conv")
BN = batchnorm("h", "y")


def weights(**replaced: object) -> dict[str, np.ndarray]:
    """A 3×3 Conv and a BatchNorm of 4 channels; `bn_var=…` replaces bn.var."""
    arrays = {"w": np.random.default_rng(0).normal(size=(4, 4, 3, 3)), **batchnorm_arrays(4, 0)}
    return arrays | {name.replace("_", "."): np.array(array, float) for name, array in replaced.items()}


def conv_bn(*nodes: onnx.NodeProto, shape=("rows", 4, 6, 6), dtype=np.float32, **options) -> onnx.ModelProto:
    arrays = options.pop("arrays", weights())
    return graph(nodes or [CONV, BN], arrays, shape, dtype=dtype, **options)


def answers(path: Path) -> list[np.ndarray]:
    x = onnx.load(path, load_external_data=False).graph.input[0].type.tensor_type
    noise = np.random.default_rng(1).normal(size=[dim.dim_value or 4 for dim in x.shape.dim])
    rows = {"x": noise.astype(helper.tensor_dtype_to_np_dtype(x.elem_type))}
    return list(load(path, optimised=False)(rows).values())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(source: Path, target: Path, words: str) -> None:
    before = contents(source.parent)
    done = run_here("fold", source, target)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, "one sentence"
    assert "::" not in done.stderr, "a C++ signature is no sentence"
    assert words in done.stderr
    assert before == contents(source.parent)


def assert_done(source: Path, target: Path, *, dtype: type = np.float32) -> list[str]:
    """Returns what became of each BatchNorm."""
    before = source.read_bytes()
    done = run_here("fold", source, target)
    assert done.returncode == 0, done.stderr
    assert source.read_bytes() == before
    for expected, answer in zip(answers(source), answers(target), strict=True):
        limit = ROUNDING[dtype] * np.abs(expected).max(initial=0)
        assert np.abs(answer.astype(float) - expected).max(initial=0) <= limit
    return [site["status"] for site in json.loads(done.stdout)["sites"]]


@pytest.fixture
def save(tmp_path):
    def save(proto: onnx.ModelProto) -> tuple[Path, Path]:
        (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
        return tmp_path / "in.onnx", tmp_path / "out.onnx"

    return save


def cases(plain: dict[str, tuple]) -> list:
    return [pytest.param(*case, id=name) for name, case in plain.items()]


def one_more(op: str, domain: str) -> onnx.ModelProto:
    proto = conv_bn(CONV, batchnorm("h", "n"), helper.make_node(op, ["n"], ["y"], domain=domain, name="odd"))
    proto.opset_import.append(helper.make_opsetid(domain or "com.example", 1))
    return proto


LOOP = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
TWO_WRITERS = [CONV, helper.make_node("Relu", ["x"], ["h"]), BN]
ZERO = [CONV, batchnorm("h", "y", epsilon=0.0)]
LATE = "load_graph asks for the opset only after ONNX Runtime has refused it, with a C++ signature"
REFUSED = {
    "unknown operator": (one_more("Swirl", ""), "Swirl"),
    "unknown domain": (one_more("Swirl", "com.example"), "com.example:Swirl"),
    "cycle": (conv_bn(*LOOP, CONV, BN), "not acyclic"),
    "two nodes write one name": (conv_bn(*TWO_WRITERS), "Output 'h' is redeclared"),
    "a name that no node writes": (conv_bn(BN), "'h'"),
    "opset 99": (conv_bn(opset=99), "opset 99, expected 7 to"),
    "no outputs": (conv_bn(outputs=[]), "it has no outputs"),
    "γ too short": (conv_bn(arrays=weights(bn_gamma=[1, 1, 1])), "between 3 and 4"),
    "all too long": (conv_bn(arrays=weights() | batchnorm_arrays(5, 0)), "between 5 and 4"),
    "μ of rank 2": (conv_bn(arrays=weights(bn_mean=[[1, 1, 1, 1]])), "expected to have rank 1"),
    "γ not finite": (conv_bn(arrays=weights(bn_gamma=[1, np.nan, 1, 1])), "BatchNorm 'bn': γ"),
    "β not finite": (conv_bn(arrays=weights(bn_beta=[1, -np.inf, 1, 1])), "BatchNorm 'bn': β"),
    "σ² not finite": (conv_bn(arrays=weights(bn_var=[1, np.nan, 1, 1])), "BatchNorm 'bn': σ²"),
    "σ² < 0": (conv_bn(arrays=weights(bn_var=[1, -1, 1, 1])), "BatchNorm 'bn': σ² + ε must be above 0"),
    "σ² + ε = 0": (conv_bn(*ZERO, arrays=weights(bn_var=[0, 1, 1, 1])), "'bn': σ² + ε must be above 0"),
}


@pytest.mark.parametrize(("proto", "words"), cases(REFUSED))
def test_a_graph_that_is_refused(save, proto, words):
    assert_refused(*save(proto), words)


def constants() -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights().items()]
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
    return conv_bn(*nodes, CONV, BN, arrays={})


def computed_gamma() -> onnx.ModelProto:
    mean = helper.make_node("ReduceMean", ["x", "axes"], ["bn.gamma"], keepdims=0)
    arrays = weights() | {"axes": np.array([0, 2, 3])}
    del arrays["bn.gamma"]
    return conv_bn(mean, CONV, BN, arrays=arrays)


def training() -> onnx.ModelProto:
    node = batchnorm("h", "y", training_mode=1)
    node.output.extend(["new_mean", "new_var"])
    return conv_bn(CONV, node)


def branching(then: list[onnx.NodeProto]) -> onnx.ModelProto:
    """An If after Conv → BatchNorm, both of whose outputs are the graph's; `then` writes t."""
    t, e = (value(name, ["rows", 4, 4, 4], TensorProto.FLOAT) for name in "te")
    other = helper.make_graph([helper.make_node("Neg", ["y"], ["e"])], "else", [], [e])
    branches = {"then_branch": helper.make_graph(then, "then", [], [t]), "else_branch": other}
    nodes = [helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0), helper.make_node("Abs", ["s"], ["a"])]
    condition = helper.make_node("GreaterOrEqual", ["a", "s"], ["c"])  # always true
    choice = helper.make_node("If", ["c"], ["z"], name="if", **branches)
    return conv_bn(CONV, BN, *nodes, condition, choice, outputs=["y", "z"])


def looping() -> onnx.ModelProto:
    """A Loop whose body is Conv → BatchNorm, three times over."""
    old, new = (value(name, ["rows", 4, 6, 6], TensorProto.FLOAT) for name in ("old", "new"))
    go, on = (value(name, [], TensorProto.BOOL) for name in ("go", "on"))
    same = helper.make_node("Identity", ["go"], ["on"])
    conv = helper.make_node("Conv", ["old", "w"], ["h"], pads=[1] * 4)
    time = value("time", [], TensorProto.INT64)
    body = helper.make_graph([same, conv, batchnorm("h", "new")], "body", [time, go, old], [on, new])
    yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    loop = helper.make_node("Loop", ["times", "yes", "x"], ["y"], body=body)
    return conv_bn(yes, loop, arrays=weights() | {"times": np.array(3)})


PASSING = '<ir_version: 10, opset_import: ["": 20]> g (float[2, 2] x) => (float[2, 2] x) {}'
INNER = [helper.make_node("Conv", ["x", "w"], ["k"]), batchnorm("k", "t")]
DONE = {
    "Constant nodes": (constants(), ["folded"]),
    "γ computed at run time": (computed_gamma(), ["declined"]),
    "training mode": (training(), ["declined"]),
    "no nodes, the output is the input": (onnx.parser.parse_model(PASSING), []),
    "one output twice": (conv_bn(outputs=["y", "y"]), None),
    "a branch reads the Conv": (branching([helper.make_node("Relu", ["h"], ["t"])]), ["declined"]),
    "a branch reads the BatchNorm": (branching([helper.make_node("Relu", ["y"], ["t"])]), None),
    "a branch reads weights and statistics": (branching(INNER), None),
    "a loop": (looping(), ["folded"]),
    "not in the reference": (one_more("Gelu", "com.microsoft"), ["folded"]),
    "nodes out of order": (conv_bn(BN, CONV), None),
    "every size symbolic": (conv_bn(shape=("n", "c", "h", "w")), None),
}


@pytest.mark.parametrize(("proto", "expected"), cases(DONE))
def test_a_graph_that_is_done_right(save, proto, expected):
    sites = assert_done(*save(proto))
    assert expected is None or sites == expected


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 15, 17, 21])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def test_every_opset_and_precision(save, opset, dtype):
    if dtype is np.float64:  # ONNX Runtime has no Conv for it on a CPU, but a Gemm
        gemm = helper.make_node("Gemm", ["x", "w", "bn.beta"], ["h"], name="gemm")
        arrays = weights(w=np.random.default_rng(0).normal(size=(4, 4)))
        proto = conv_bn(gemm, BN, arrays=arrays, shape=["rows", 4], dtype=dtype, opset=opset)
    else:
        proto = conv_bn(dtype=dtype, opset=opset)
    assert assert_done(*save(proto), dtype=dtype) == ["folded"]


def test_a_float64_conv_is_folded_in_float32(save):
    """ONNX Runtime cannot run the file: what it means is computed by ONNX's reference implementation."""
    source, target = save(conv_bn(dtype=np.float64))
    done = run_here("fold", source, target)
    assert done.returncode == 0, done.stderr
    rows = {"x": np.random.default_rng(1).normal(size=(4, 4, 6, 6))}
    (got,) = load(target, optimised=False)(rows).values()
    expected = graph_evaluator(ir.load(source))(rows)["y"]
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("target", ["none/out.onnx", ".", "in.onnx/out.onnx", "a" * 300])
def test_an_out_that_cannot_be_written(save, target):
    source, _ = save(conv_bn())
    assert_refused(source, source.parent / target, "")


def test_a_full_disk_leaves_nothing_behind(save, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: Path("/dev/full").write_bytes(b"full"))
    assert_refused(*save(conv_bn()), "No space left on device")


SHORT = "bytes 0 to 576, but it has 100: copy it again\n"
GONE = "which does not exist: put it beside the .onnx file\n"


@pytest.mark.parametrize(("size", "words"), [(1000, ""), (100, SHORT), (None, GONE)])
def test_external_weights(save, size, words):
    source, target = save(conv_bn())
    onnx.save(conv_bn(), source, save_as_external_data=True, location="weights", size_threshold=0)
    os.truncate(source.with_name("weights"), size) if size else source.with_name("weights").unlink()
    assert_refused(source, target, words) if words else assert_done(source, target)


@pytest.mark.parametrize("location", ["/tmp/weights", "../weights"])
def test_external_weights_elsewhere(save, location):
    """--no-proof would not read them either, so it is not named."""
    source, target = save(conv_bn())
    proto = conv_bn()
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], location)
    source.write_bytes(proto.SerializeToString())
    assert_refused(source, target, "is not beside it: save the model again with a relative path\n")


def test_over_2_gb(save, monkeypatch):
    monkeypatch.setattr(export.graph.file, "LARGEST_FILE", 100)
    assert_refused(*save(conv_bn()), "2 GB")


def test_a_device_is_not_replaced(save):
    source, target = save(conv_bn())
    os.mkfifo(target)
    assert_refused(source, target, "no regular file")
    assert target.is_fifo()
