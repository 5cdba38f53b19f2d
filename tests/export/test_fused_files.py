"""Files that ONNX Runtime's optimiser saved: its fused ops are written out, and fold as they did before."""

import onnx
import onnxruntime as ort
import pytest
from test_rare_forms import assert_answers_alike

from file_kit import assert_all_fold, folded, model, node, norm, norm_arrays, value, weights

TOKENS = {"x": ["N", 6, 8]}


def fused(op_type: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return node(op_type, inputs, output, domain="com.microsoft", **attributes)


def optimised(proto: onnx.ModelProto, folder) -> onnx.ModelProto:
    """What ONNX Runtime saves of a file."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = f"{folder}/optimised.onnx"
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


@pytest.mark.parametrize(
    ("activation", "params"),
    [
        ("Relu", []),
        ("LeakyRelu", [0.3]),
        ("Clip", [-0.5, 0.75]),
        ("HardSigmoid", [0.3, 0.4]),
        ("Sigmoid", []),
        ("Tanh", []),
        ("", []),
    ],
)
@pytest.mark.parametrize("opset", [10, 17])
def test_a_fused_convolution_says_what_its_parts_say(tmp_path, activation, params, opset):
    """z + the Conv's answer, then the activation; the BatchNorm folds into the Conv that reads it."""
    attributes = {"activation": activation} if activation else {}
    attributes |= {"activation_params": params} if params else {}
    nodes = [
        *(node("Conv", "x w", "z"), fused("FusedConv", "x w c z", "h", **attributes)),
        *(norm("h", "n"), node("Conv", "n v", "y")),
    ]
    arrays = {"w": weights(4, 3, 3, 3), "c": weights(4, 1)[:, 0], "v": weights(2, 4, 3, 3), **norm_arrays(4)}
    proto = model(nodes, arrays, {"x": ["N", 3, 8, 8]}, opset=opset, extra_domain="com.microsoft")
    parts = {"": ["Conv", "Conv", "Add"]}.get(activation, ["Conv", "Conv", "Add", activation])
    assert_all_fold(proto, tmp_path, [*parts, "Conv"])
    assert_answers_alike(tmp_path, proto)


@pytest.mark.parametrize("name", ["LeakyRelu", "Elu", "HardSigmoid"])
def test_a_fused_gemm_keeps_the_numbers_of_its_activation(tmp_path, name):
    numbers = {"activation_alpha": 0.3, **({"activation_beta": 0.4} if name == "HardSigmoid" else {})}
    nodes = [
        *(node("Flatten", "x", "f"), fused("FusedGemm", "f w c", "h", activation=name, alpha=0.5, **numbers)),
        *(norm("h", "n"), node("Gemm", "n v", "y")),
    ]
    arrays = {"w": weights(192, 4), "c": weights(4, 1)[:, 0], "v": weights(4, 2), **norm_arrays(4)}
    proto = model(nodes, arrays, {"x": ["N", 3, 8, 8]}, extra_domain="com.microsoft")
    assert_all_fold(proto, tmp_path, ["Flatten", "Gemm", name, "Gemm"])
    assert_answers_alike(tmp_path, proto)


@pytest.mark.parametrize("transposed", ["", "A", "B", "AB"])
def test_a_fused_product_is_transposed_and_scaled(tmp_path, transposed):
    """Of computed tensors whose ranks no one states, and then of a weight."""
    sides = {f"trans{side}": 1 for side in transposed}
    nodes = [
        *(node("Conv", "x w", "h"), norm("h", "n"), node("Reshape", "n shape", "s")),
        *(fused("FusedMatMul", "s s", "p", alpha=0.25, **sides), fused("FusedMatMul", "p v", "y", transB=1)),
    ]
    arrays = {"w": weights(4, 3, 3, 3), "v": weights(2, 6), "shape": [0, 0, 6, 6], **norm_arrays(4)}
    proto = model(nodes, arrays, {"x": ["N", 3, 8, 8]}, extra_domain="com.microsoft")
    account, left = folded(proto, tmp_path)
    assert account["folded"] == 1
    assert "FusedMatMul" not in left
    assert_answers_alike(tmp_path, proto)


def test_what_is_not_known_stays(tmp_path):
    """A batch axis transposed: the file is proved in float32, and the BatchNorm before it folds."""
    nodes = [
        *(node("Conv", "x w", "h"), norm("h", "n"), node("Reshape", "n shape", "s")),
        fused("FusedMatMul", "s v", "y", transBatchB=1),
    ]
    arrays = {"w": weights(4, 3, 3, 3), "v": weights(36, 1, 5), "shape": [0, 4, 36], **norm_arrays(4)}
    proto = model(nodes, arrays, {"x": ["N", 3, 8, 8]}, extra_domain="com.microsoft")
    account, left = folded(proto, tmp_path)
    assert (account["folded"], left[-1]) == (1, "FusedMatMul")


def test_an_optimised_file_folds_as_the_one_before(tmp_path):
    """Attention between two norms that ONNX Runtime leaves, since neither comes right after a linear op."""
    nodes = [
        *(node("Conv", "x w", "h", pads=[1, 1]), node("Relu", "h", "r"), norm("r", "n")),
        *(node("Transpose", "n", "t", perm=[0, 2, 1]), node("MatMul", "t q", "k")),
        *(
            node("Transpose", "k", "kt", perm=[0, 2, 1]),
            node("MatMul", "t kt", "s"),
            node("Softmax", "s", "a"),
        ),
        *(node("MatMul", "a k", "o"), node("Transpose", "o", "ot", perm=[0, 2, 1])),
        *(node("Conv", "ot w2", "g"), node("Relu", "g", "gr"), norm("gr", "m", "late")),
        *(node("Flatten", "m", "f"), node("Gemm", "f v", "d"), node("Relu", "d", "y")),
    ]
    arrays = {
        **{"w": weights(6, 6, 3), "q": weights(6, 6), "w2": weights(4, 6, 1), "v": weights(32, 3)},
        **norm_arrays(6),
        **norm_arrays(4, seed=1, prefix="late"),
    }
    proto = model(nodes, arrays, TOKENS, [value("y", ["N", 3])])
    saved = optimised(proto, tmp_path)
    ops = [one.op_type for one in saved.graph.node]
    assert {"FusedConv", "FusedMatMul", "FusedGemm", "BatchNormalization"} <= set(ops)

    (tmp_path / "before").mkdir()
    before, _ = folded(proto, tmp_path / "before")
    account, left = folded(saved, tmp_path)
    assert account["folded"] == before["folded"] >= 1
    assert account["found"] == before["found"] == 2
    assert not any(op.startswith("Fused") for op in left)


FUSED = {
    "Gelu": fused("Gelu", "h", "f"),
    "BiasGelu": fused("BiasGelu", "h eight", "f"),
    "FastGelu": fused("FastGelu", "h", "f"),
    "QuickGelu": fused("QuickGelu", "h", "f"),
    "SkipLayerNormalization": fused("SkipLayerNormalization", "h x eight eight", "f", epsilon=1e-5),
    "SkipSimplifiedLayerNormalization": fused("SkipSimplifiedLayerNormalization", "h x eight", "f"),
    "its sum": fused("SkipLayerNormalization", "h x eight eight", "g - - f", epsilon=1e-5),
    "Attention": fused("Attention", "h qkv qkv_bias", "f", num_heads=2),
    "MultiHeadAttention": fused("MultiHeadAttention", "h h h", "f", num_heads=2),
}


@pytest.mark.parametrize("op", FUSED)
def test_the_rank_after_a_fused_op_is_known(tmp_path, op):
    """A BatchNorm of the features after it goes into the Conv that reads it."""
    nodes = [node("MatMul", "x w", "h"), FUSED[op], node("Transpose", "f", "t", perm=[0, 2, 1])]
    nodes += [norm("t", "n"), node("Conv", "n v", "y")]
    arrays = {"w": weights(8, 8), "v": weights(2, 8, 3), "eight": weights(8, 1)[:, 0], **norm_arrays(8)}
    if op == "Attention":
        arrays |= {"qkv": weights(8, 24), "qkv_bias": weights(24, 1)[:, 0]}
    proto = model(nodes, arrays, TOKENS, extra_domain="com.microsoft")
    assert_all_fold(proto, tmp_path)  # proved against the file itself


def test_what_is_not_understood_says_how_more_would_be_known(tmp_path):
    """The reason names the op, though an Abs is between; and what it says to do is enough."""
    nodes = [node("MatMul", "x w", "h"), fused("Trilu", "h", "f"), node("Abs", "f", "a")]
    nodes += [node("Transpose", "a", "t", perm=[0, 2, 1]), norm("t", "n"), node("Conv", "n v", "y")]
    arrays = {"w": weights(8, 8), "v": weights(2, 8, 3), **norm_arrays(8)}
    proto = model(nodes, arrays, TOKENS, extra_domain="com.microsoft")
    account, _ = folded(proto, tmp_path)
    assert "Trilu 'Trilu_f' of com.microsoft before it is not understood" in account["sites"][0]["reason"]
    assert "states the shape of 'f'" in account["sites"][0]["reason"]
    proto.graph.value_info.append(value("f", ["N", 6, 8]))
    assert_all_fold(proto, tmp_path)
