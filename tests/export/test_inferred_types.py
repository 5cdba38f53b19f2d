"""Files that ONNX Runtime takes, of which ONNX's shape inference states what is not so: folded and proved."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from export.graph.prepare import prepare
from file_kit import assert_all_fold, folded, model, node, norm, norm_arrays, value, weights

FREQUENCIES = {None: 9, 1: 9, 0: 16}
"""Of a window of 16, by the attribute `onesided`."""


@pytest.mark.parametrize("onesided", FREQUENCIES)
def test_a_spectrum_of_half_the_frequencies(tmp_path, onesided):
    """STFT is one-sided unless it says otherwise; inference counts both sides where it says nothing."""
    kept, said = FREQUENCIES[onesided], {} if onesided is None else {"onesided": onesided}
    nodes = [node("Unsqueeze", "x last", "u"), node("STFT", "u hop window", "s", **said)]
    nodes += [node("Mul", "s s", "q"), node("ReduceSum", "q last", "p", keepdims=0)]
    nodes += [node("Transpose", "p", "t", perm=[0, 2, 1]), norm("t", "n"), node("Conv", "n w", "y")]
    arrays = {"last": np.array([-1]), "hop": np.array(8), "window": np.hanning(16).astype(np.float32)}
    arrays |= {"w": weights(4, kept, 3), **norm_arrays(kept)}
    account, _ = folded(model(nodes, arrays, {"x": ["N", 64]}, opset=18), tmp_path)
    assert account["folded"] == account["found"] == 1


def mapped(*after: onnx.NodeProto, untyped: bool = True) -> onnx.ModelProto:
    """Conv and BatchNorm of each picture of a sequence."""
    outputs = [value("eo", None)] if untyped else [value("eo", [1, 4, 6, 6])]
    body = helper.make_graph(
        [node("Conv", "e w", "eh"), norm("eh", "eo")], "body", [value("e", None)], outputs
    )
    nodes = [node("SplitToSequence", "x", "q", axis=0), node("SequenceMap", "q", "r", body=body), *after]
    return model(nodes, {"w": weights(4, 3, 3, 3), **norm_arrays(4)}, {"x": [2, 3, 8, 8]})


JOINED = [node("ConcatFromSequence", "r", "y", axis=0)]
RENAMED = [node("Identity", "r", "i"), node("ConcatFromSequence", "i", "y", axis=0)]
OPTIONAL = [
    node("Optional", "r", "o"),
    node("OptionalHasElement", "o", "has"),
    node("OptionalGetElement", "o", "g"),
    node("ConcatFromSequence", "g", "y", axis=0),
]


@pytest.mark.parametrize("after", [JOINED, RENAMED, OPTIONAL], ids=["joined", "renamed", "optional"])
@pytest.mark.parametrize("untyped", [True, False])
def test_a_sequence_stays_one(tmp_path, after, untyped):
    account, _ = folded(mapped(*after, untyped=untyped), tmp_path)
    assert account["found"] == 1
    prepared = prepare(ir.from_proto(mapped(*after, untyped=untyped)))
    made = {one.op_type: one.outputs[0].type for one in prepared.graph}
    for op_type in ("SplitToSequence", "SequenceMap"):
        assert isinstance(made[op_type], ir.SequenceType), made


def test_a_sequence_that_a_branch_chooses(tmp_path):
    branches = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        nodes = [node(op, "h", f"{name}.r"), node("SequenceConstruct", f"{name}.r", f"{name}.s")]
        kind = helper.make_tensor_sequence_value_info(f"{name}.s", TensorProto.FLOAT, None)
        branches[name] = helper.make_graph(nodes, name, [], [kind])
    nodes = [node("Conv", "x w", "c"), norm("c", "h"), node("ReduceMax", "x", "m", keepdims=0)]
    nodes += [node("Abs", "m", "a"), node("GreaterOrEqual", "a m", "always")]
    nodes += [node("If", "always", "s", **branches), node("SequenceAt", "s first", "y")]
    arrays = {"w": weights(4, 3, 3, 3), "first": np.array(0), **norm_arrays(4)}
    account, _ = folded(model(nodes, arrays, {"x": ["N", 3, 8, 8]}), tmp_path)
    assert account["folded"] == 1


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("rows", ["N", 2])
def test_a_group_norm_has_its_inputs_shape(tmp_path, opset, rows):
    """Inference finds none; the BatchNorm after it goes into the Conv after that, which is not padded."""
    nodes = [node("Conv", "x w", "h"), node("GroupNormalization", "h g b", "z", num_groups=2)]
    nodes += [norm("z", "n"), node("Conv", "n v", "y")]
    size = 2 if opset == 18 else 4  # one for each group before opset 21
    arrays = {"w": weights(4, 3, 3, 3), "v": weights(5, 4, 1, 1), **norm_arrays(4)}
    arrays |= {"g": np.ones(size, np.float32), "b": np.zeros(size, np.float32)}
    proto = model(nodes, arrays, {"x": [rows, 3, 8, 8]}, opset=opset)
    proto.ir_version = 10
    account, _ = folded(proto, tmp_path)
    assert account["folded"] == 1, account


def test_parts_of_a_whole_of_unknown_size_have_their_own_sizes(tmp_path):
    """As in timm's LeViT: inference gives both last sizes one name, by which ONNX Runtime reuses memory."""
    nodes = [
        *(node("Conv", "x w", "h"), norm("h", "n"), node("Transpose", "n", "t", perm=[0, 2, 3, 1])),
        *(node("Shape", "t", "s"), node("Slice", "s zero one", "r"), node("Mul", "r places", "m")),
        *(node("Concat", "m four", "c1", axis=0), node("Reshape", "t c1", "v1")),
        *(node("Concat", "r places rest", "c2", axis=0), node("Reshape", "v1 c2", "v2")),
        *(node("Split", "v2 sizes", "a b", axis=2), node("Transpose", "a", "at", perm=[0, 2, 1])),
        *(node("Transpose", "b", "bt", perm=[0, 2, 1]), node("Concat", "bt at", "y", axis=1)),
    ]
    numbers = {"zero": [0], "one": [1], "places": [36], "four": [4], "rest": [-1], "sizes": [1, 3]}
    arrays = {
        "w": weights(4, 3, 3, 3),
        **norm_arrays(4),
        **{name: np.array(n) for name, n in numbers.items()},
    }
    proto = model(nodes, arrays, {"x": ["N", 3, 8, 8]})
    prepared = prepare(ir.from_proto(proto))
    sizes = {value.name: value.shape for one in prepared.graph for value in one.outputs}
    assert [sizes[name][axis] for name, axis in (("a", 2), ("b", 2), ("at", 1), ("bt", 1))] == [1, 3, 1, 3]
    assert_all_fold(proto, tmp_path)
