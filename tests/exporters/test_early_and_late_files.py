"""Files of early opsets and of late IR versions, functions of another opset, and what a file says twice."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.compute.runtime import load
from export.errors import SourceError, UnrunnableError
from export.graph.file import load_graph
from export.graph.functions import inline_functions
from export.graph.mended import NEWEST_IR
from export.graph.raised import is_early, raised
from export_kit import run_here
from file_kit import assert_all_fold, branch, folded, model, node, norm, norm_arrays, value, weights

INPUT = {"x": ["N", 3, 8, 8]}
NAMES = ["s", "b", "m", "v"]
ARRAYS = {"w": weights(4, 3, 3, 3), **norm_arrays(4)}
ROWS = {"x": np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32)}


def found(path: Path) -> np.ndarray:
    (answer,) = load(path, optimised=False)(ROWS).values()
    return answer


def early(opset: int) -> onnx.ModelProto:
    """As torch 0.3 wrote: weights are inputs too, and an Add says the axis that it begins at."""
    norm_node = norm("h", "n", is_test=1)
    if opset < 6:
        norm_node.attribute.append(helper.make_attribute("consumed_inputs", [0, 0, 0, 1, 1]))
    add = node("Add", "n c", "y", broadcast=1, axis=1)
    arrays = ARRAYS | {"c": weights(4, 1).reshape(4)}
    inputs = INPUT | {name: list(array.shape) for name, array in arrays.items()}
    outputs = [value("y", ["N", 4, 6, 6])]
    proto = model([node("Conv", "x w", "h"), norm_node, add], arrays, inputs, outputs, opset=opset)
    proto.ir_version = 3
    return proto


FILES = [
    path
    for path in sorted(Path(onnx.__file__).parent.glob("backend/test/data/pytorch-*/*/model.onnx"))
    if is_early(onnx.load(path))
]


def tensors(folder: Path, kind: str) -> list[np.ndarray]:
    paths = sorted(folder.glob(f"test_data_set_0/{kind}_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
    return [numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())) for path in paths]


def test_the_early_files_that_onnx_ships_give_their_answers():
    assert len(FILES) > 100
    for path in FILES:
        graph = onnx.load(path).graph
        run = load(raised(onnx.load(path)).SerializeToString(), optimised=False)
        rows = dict(zip([one.name for one in graph.input], tensors(path.parent, "input"), strict=False))
        answers = run(rows)
        for one, expected in zip(graph.output, tensors(path.parent, "output"), strict=True):
            np.testing.assert_allclose(
                answers[one.name], expected, rtol=1e-3, atol=1e-5, err_msg=path.parent.name
            )


@pytest.mark.parametrize(("opset", "is_open"), [(3, False), (5, False), (6, False), (6, True)])
def test_an_early_opset_is_raised_and_proved(tmp_path, opset, is_open):
    proto = early(opset)
    for size in proto.graph.input[0].type.tensor_type.shape.dim[2:] if is_open else ():
        size.dim_param = "side"
    account, _ = folded(proto, tmp_path, *(["--input-shape", "side=8"] if is_open else []))
    assert account["folded"] == 1
    assert found(tmp_path / "out.onnx") == pytest.approx(expected(), abs=1e-5)


def expected() -> np.ndarray:
    """What the file of `early` means, in an opset that every reader knows."""
    arrays = ARRAYS | {"c": weights(4, 1).reshape(4, 1, 1)}
    nodes = [node("Conv", "x w", "h"), norm("h", "n"), node("Add", "n c", "y")]
    proto = model(nodes, arrays, INPUT, [value("y", ["N", 4, 6, 6])])
    (answer,) = ReferenceEvaluator(proto).run(None, ROWS)
    return answer


def test_the_slope_of_each_channel_is_one(tmp_path):
    """Until opset 7 it needs no axes after it: onnx's converter, and its reference, take it for columns."""
    proto = model(
        [node("PRelu", "x slope", "n"), node("Conv", "n w", "h"), norm("h", "y", is_test=1)],
        ARRAYS | {"slope": np.array([-1, 1, 2], np.float32)},
        {"x": ["N", 3, 3, 3]},
        [value("y", ["N", 4, 1, 1])],
        opset=6,
    )
    folded(proto, tmp_path)
    rows = np.random.default_rng(1).normal(size=(2, 3, 3, 3)).astype(np.float32)
    (answer,) = load(tmp_path / "out.onnx", optimised=True)({"x": rows}).values()
    slope = proto.graph.initializer[-1]
    slope.CopyFrom(numpy_helper.from_array(np.array([-1, 1, 2], np.float32).reshape(3, 1, 1), "slope"))
    proto.opset_import[0].version = 15
    (expected,) = ReferenceEvaluator(without_flags(proto)).run(None, {"x": rows})
    assert answer == pytest.approx(expected, abs=1e-5)


def without_flags(proto: onnx.ModelProto) -> onnx.ModelProto:
    for one in proto.graph.node:
        if one.op_type == "BatchNormalization":
            del one.attribute[:]
    return proto


def test_a_rank_that_is_not_known_is_one_sentence(tmp_path):
    proto = early(6)
    proto.graph.node[0].op_type = "Unheard"
    onnx.save(proto, tmp_path / "in.onnx")
    with pytest.raises(SourceError, match="cannot be raised to 9: the rank of 'n', which Add 'Add_y' reads"):
        load_graph(tmp_path / "in.onnx")


def test_what_the_converter_does_not_know_is_one_sentence(tmp_path):
    proto = model([node("ImageScaler", "x", "y", scale=2.0)], {}, INPUT, opset=6)
    onnx.save(proto, tmp_path / "in.onnx")
    with pytest.raises(SourceError, match="opset 6, which cannot be raised to 9: "):
        load_graph(tmp_path / "in.onnx")


def test_the_newest_ir_version_that_the_runtime_reads(tmp_path):
    """`onnx.helper.make_model` writes a newer one at its defaults."""
    proto = model([node("Conv", "x w", "h"), norm("h", "y")], ARRAYS, INPUT)
    proto.ir_version = NEWEST_IR
    load(proto.SerializeToString(), optimised=False)
    proto.ir_version = NEWEST_IR + 1
    with pytest.raises(UnrunnableError, match="IR version"):
        load(proto.SerializeToString(), optimised=False)
    assert_all_fold(proto, tmp_path, ["Conv"])


def called(body: list[onnx.NodeProto], opset: int, *, own: int = 17) -> onnx.ModelProto:
    """A Conv, and a function of these nodes, which says that it is of `opset`."""
    call = helper.make_node("Block", ["h", *(f"bn.{one}" for one in ("gamma", "beta", "mean", "var"))], ["y"])
    call.domain = "my"
    proto = model([node("Conv", "x w", "h"), call], ARRAYS, INPUT, opset=own, extra_domain="my")
    imports = [helper.make_opsetid("", opset)]
    proto.functions.append(helper.make_function("my", "Block", ["X", *NAMES], ["Y"], body, imports))
    return proto


@pytest.mark.parametrize("opset", [9, 13, 15])
def test_a_function_of_another_opset(tmp_path, opset):
    """BatchNormalization has versions of its own in 14 and 15, and is the same where it does not train."""
    body = [helper.make_node("BatchNormalization", ["X", *NAMES], ["Y"])]
    assert_all_fold(called(body, opset), tmp_path, ["Conv"])


@pytest.mark.parametrize(
    ("op", "attributes", "opset"),
    [("Softmax", {"axis": 1}, 11), ("Softmax", {}, 11), ("ReduceMean", {"axes": [2, 3]}, 13)],
)
def test_an_op_that_is_another_in_the_files_opset_is_named(op, attributes, opset):
    import onnx_ir as ir

    proto = called([helper.make_node(op, ["X"], ["Y"], **attributes)], opset, own=18)
    with pytest.raises(SourceError, match=f"is of opset {opset}, and its {op} is another"):
        inline_functions(ir.from_proto(proto))


def test_unnamed_outputs_within_a_function(tmp_path):
    """ONNX Runtime 1.31 dies of them."""
    body = [helper.make_node("BatchNormalization", ["X", *NAMES], ["Y", "", "", "", ""])]
    assert_all_fold(called(body, 9, own=9), tmp_path, ["Conv"])


def test_of_weights_of_one_name_the_first_counts(tmp_path):
    """As in ONNX Runtime, whatever its warning says."""
    proto = model([node("Conv", "x w", "h"), norm("h", "y")], ARRAYS, INPUT)
    proto.graph.initializer.insert(0, numpy_helper.from_array(weights(4, 3, 3, 3, seed=7), "w"))
    (expected,) = load(proto.SerializeToString(), optimised=False)(ROWS).values()
    assert_all_fold(proto, tmp_path, ["Conv"])
    assert found(tmp_path / "out.onnx") == pytest.approx(expected, abs=1e-5)


def test_a_batchnorm_that_never_runs_goes(tmp_path):
    """ONNX Runtime leaves none either."""
    taken = branch([node("Conv", "x w", "one")], "one")
    other = branch([node("Conv", "x w", "other_h"), norm("other_h", "other")], "other")
    choice = node("If", "yes", "y", then_branch=taken, else_branch=other)
    proto = model([choice], ARRAYS | {"yes": np.array(True)}, INPUT)
    account, left = folded(proto, tmp_path)
    assert (account["found"], left) == (0, ["Conv"])


def test_a_graph_without_inputs_is_one_sentence(tmp_path):
    onnx.save(model([node("Relu", "c", "y")], {"c": np.ones((1, 4), np.float32)}, {}), tmp_path / "in.onnx")
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert "takes no inputs" in done.stderr


def test_what_nothing_folds_in_needs_no_proof(tmp_path):
    """Every answer is 0, whatever the BatchNorm does."""
    nodes = [norm("x", "n"), node("Sigmoid", "n", "s"), node("Gemm", "s w", "y", transB=1)]
    proto = model(nodes, {"w": np.zeros((5, 4), np.float32), **norm_arrays(4)}, {"x": ["N", 4]})
    onnx.save(proto, tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert (done.returncode, "nothing folds" in done.stderr) == (0, True), done.stderr
    assert (tmp_path / "in.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "bundle")
    assert (done.returncode, "nothing can be proved" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("suffix", [".textproto", ".json", ".onnxtxt", ".pbtxt"])
def test_a_file_in_words(tmp_path, suffix):
    proto = model([node("Conv", "x w", "h"), norm("h", "y")], ARRAYS, INPUT)
    source = tmp_path / f"in{suffix}"
    onnx.save(proto, source)
    done = run_here("fold", source, tmp_path / "out.onnx")
    assert done.returncode == 0, done.stderr
    assert [one.op_type for one in onnx.load(tmp_path / "out.onnx").graph.node] == ["Conv"]
    done = run_here("bundle", source, "--to", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("content", [b"", b"\x08", b"\x08\x07\x12"])
def test_a_file_of_a_few_bytes_is_one_sentence(tmp_path, content):
    (tmp_path / "in.bin").write_bytes(content)
    done = run_here("fold", tmp_path / "in.bin", tmp_path / "out.onnx")
    assert (done.returncode, "Traceback" in done.stderr, len(done.stderr.splitlines())) == (2, False, 1)
