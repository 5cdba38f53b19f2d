"""The reference's own windows against ONNX Runtime: two implementations that share no code."""

import itertools

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from export.compute.operators import OPERATORS, conv
from export.compute.operators.activation import Sigmoid
from export.compute.reference import graph_evaluator, reference
from export.errors import ProofError
from file_kit import model, node

FLOAT32_NOISE = 1e-4  # 6·3³ products of numbers around 1, each rounded to 2⁻²⁴, with room
PADDINGS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


def assert_agrees(op: str, arrays: dict[str, np.ndarray], opset: int = 20, **attributes: object) -> None:
    node = helper.make_node(op, list(arrays), ["y"], **attributes)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in arrays.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph([node], "one", inputs, [output]),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options)
    (expected,) = session.run(None, {name: array.astype(np.float32) for name, array in arrays.items()})
    ours = ReferenceEvaluator(model, new_ops=OPERATORS)
    (answer,) = ours.run(None, arrays)
    assert answer.dtype == np.float64
    assert answer.shape == expected.shape, attributes
    assert np.abs(answer - expected).max() < FLOAT32_NOISE, attributes


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_agree_with_onnxruntime(rank, groups):
    random = np.random.default_rng(rank)
    for stride, dilation, auto_pad in itertools.product((1, 2, 3), (1, 2), PADDINGS):
        if dilation == 2 and auto_pad.startswith("SAME"):
            continue  # ONNX Runtime does not have it
        pads = {"pads": random.integers(0, 2, 2 * rank).tolist()} if auto_pad == "NOTSET" else {}
        shared = {
            "group": groups,
            "strides": [stride] * rank,
            "dilations": [dilation] * rank,
            "auto_pad": auto_pad,
        }
        arrays = {
            "x": random.normal(size=(2, 4, *[7] * rank)),
            "w": random.normal(size=(6, 4 // groups, *[3] * rank)),
            "b": random.normal(size=6),
        }
        assert_agrees("Conv", arrays, **shared, **pads)
        spread = {**arrays, "w": random.normal(size=(4, 6 // groups, *[3] * rank))}
        assert_agrees("ConvTranspose", spread, **shared, **pads, output_padding=[stride - 1] * rank)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_transpose_crops_to_a_wanted_shape(rank):
    random = np.random.default_rng(rank)
    arrays = {
        "x": random.normal(size=(2, 4, *[5] * rank)),
        "w": random.normal(size=(4, 3, *[3] * rank)),
        "b": random.normal(size=6),
    }
    for stride in (1, 2):
        wanted = [4 * stride + 2] * rank
        assert_agrees("ConvTranspose", arrays, group=2, strides=[stride] * rank, output_shape=wanted)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_agree_with_onnxruntime(op, rank):
    random = np.random.default_rng(rank)
    x = random.normal(size=(2, 3, *[7] * rank))
    for stride, auto_pad, counted in itertools.product((1, 2), PADDINGS, (0, 1)):
        pads = {"pads": random.integers(0, 2, 2 * rank).tolist()} if auto_pad == "NOTSET" else {}
        average = {"count_include_pad": counted} if op == "AveragePool" else {}
        assert_agrees(
            op,
            {"x": x},
            kernel_shape=[3] * rank,
            strides=[stride] * rank,
            auto_pad=auto_pad,
            **pads,
            **average,
        )
    assert_agrees(op, {"x": x}, kernel_shape=[2] * rank, strides=[2] * rank, ceil_mode=1)
    assert_agrees(f"Global{op}", {"x": x})


@pytest.mark.parametrize("opset", [19, 22])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_deformable_convolutions_agree_with_onnxruntime(groups, parts, opset):
    random = np.random.default_rng(groups + 2 * parts)
    for stride, dilation, kernel in itertools.product((1, 2), (1, 2), ((3, 2), (1, 1))):
        pads = random.integers(0, 3, 4).tolist()
        sizes = [
            (size + pads[axis] + pads[axis + 2] - (kernel[axis] - 1) * dilation - 1) // stride + 1
            for axis, size in enumerate((7, 9))
        ]
        taps = kernel[0] * kernel[1]
        arrays = {
            "x": random.normal(size=(2, 4, 7, 9)),
            "w": random.normal(size=(6, 4 // groups, *kernel)),
            # Some lead out of the picture, by more and by less than a pixel, and some to whole pixels.
            "offset": np.round(random.normal(size=(2, parts * taps * 2, *sizes)) * 3, 1),
            "b": random.normal(size=6),
            "mask": random.uniform(size=(2, parts * taps, *sizes)),
        }
        shared = {
            "group": groups,
            "offset_group": parts,
            "strides": [stride] * 2,
            "dilations": [dilation] * 2,
        }
        assert_agrees("DeformConv", arrays, opset=opset, pads=pads, **shared)
        del arrays["mask"]
        assert_agrees("DeformConv", arrays, opset=opset, pads=pads, **shared)


@pytest.mark.parametrize(
    ("opset", "mode"), [(16, "bilinear"), (16, "nearest"), (20, "linear"), (20, "nearest"), (20, "cubic")]
)
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_pictures_are_sampled_as_onnxruntime_does(align, padding, mode, opset):
    random = np.random.default_rng(align)
    # Up to two pictures away from this one, and some places right at its edges; none is half between pixels.
    grid = np.round(random.uniform(-4, 4, size=(2, 3, 4, 2)), 1) + 0.013
    grid[0, 0] = [[-1, -1], [1, 1], [-1, 1], [1, -1]]
    arrays = {"x": random.normal(size=(2, 3, 5, 7)), "grid": grid}
    if (mode, padding) == ("cubic", "border"):  # 0.1 apart: no truth
        with pytest.raises(ValueError, match="which ONNX Runtime reads otherwise"):
            assert_agrees("GridSample", arrays, opset=opset, mode=mode, padding_mode=padding)
        return
    assert_agrees("GridSample", arrays, opset=opset, mode=mode, padding_mode=padding, align_corners=align)


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batchnorm_uses_running_statistics_at_every_opset(opset):
    """ONNX's own reference takes the batch's below opset 14: a truth that would have proved anything."""
    random = np.random.default_rng(opset)
    arrays = {
        "x": random.normal(size=(3, 4, 5)),
        "gamma": random.normal(size=4),
        "beta": random.normal(size=4),
        "mean": random.normal(size=4),
        "var": random.uniform(0.3, 2, size=4),
    }
    assert_agrees("BatchNormalization", arrays, opset=opset, epsilon=1e-3)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_lrn_counts_channels_not_rows(size):
    x = np.random.default_rng(size).normal(size=(3, 7, 4, 4))
    assert_agrees("LRN", {"x": x}, size=size, alpha=0.3, beta=0.6, bias=1.5)


def test_sigmoid_of_large_numbers():
    x = np.array([-800.0, -30, -1, 0, 1, 40, 800])
    assert_agrees("Sigmoid", {"x": x})
    assert 0 < Sigmoid.eval(x)[1] == 1 / (1 + np.exp(30.0)), "no difference of numbers near 1"


@pytest.mark.parametrize("num_lines", [1, 3])
def test_a_conv_of_a_few_lines_at_a_time_is_that_of_all(monkeypatch, num_lines):
    random = np.random.default_rng(0)
    arrays = {"x": random.normal(size=(2, 4, 9, 8)), "w": random.normal(size=(6, 2, 3, 2))}
    line_bytes = 8 * 4 * 3 * 2 * 7  # float64 · channels · taps · places of a line
    monkeypatch.setattr(conv, "COLUMN_BYTES", num_lines * line_bytes)
    assert_agrees("Conv", arrays, group=2, strides=[2, 1], pads=[1, 0, 1, 0], dilations=[1, 1])


def test_tensors_are_forgotten_after_their_last_reader():
    """An input, a weight and an output that others read are kept; two outputs of one op are two tensors."""
    nodes = [node("Split", "x", "a b", axis=1), node("Relu", "a", "y"), node("Mul", "y w", "c")]
    nodes += [
        node("Add", "c b", "d"),
        node("Add", "d y", "e"),
        node("Mul", "e w", "z"),
        node("Neg", "x", "v"),
    ]
    graph = model(nodes, {"w": np.float64(3)}, {"x": ["N", 4]}, ["y", "z", "v"], opset=13)
    x = np.random.default_rng(0).normal(size=(2, 4))
    expected = ReferenceEvaluator(graph).run(None, {"x": x})
    found = reference(ir.from_proto(graph)).run(None, {"x": x})
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_the_reference_computes_otherwise_than_runtimes_is_no_truth():
    svc = ir.node("SVMClassifier", [ir.Value(name="x")], domain="ai.onnx.ml", name="svc")
    graph = ir.Graph(svc.inputs, svc.outputs, nodes=[svc], opset_imports={"": 18, "ai.onnx.ml": 3})
    with pytest.raises(ProofError, match="computes SVMClassifier 'svc' otherwise than ONNX Runtime does"):
        graph_evaluator(ir.Model(graph, ir_version=10))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("opset", [7, 11, 12, 13])
def test_softmax_is_over_all_later_axes_before_opset_13(op, axis, opset):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    assert_agrees(op, {"x": x}, opset, **({} if axis is None else {"axis": axis}))


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization_sums_magnitudes(p):
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    x[0, :, 0] = 0
    assert_agrees("LpNormalization", {"x": x}, axis=1, p=p)


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LEFT_OUT = {
    "LSTM": {"activations": ["HardSigmoid", "Tanh", "Tanh"]},
    "GRU": {"clip": 0.5},
    "RNN": {"clip": 0.5},
}


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("lengths", [None, [6, 6], [6, 3]])
def test_what_the_reference_leaves_out_of_a_recurrent_layer_is_no_truth(op, lengths):
    """The truth is ONNX Runtime's then.  Lengths that are all of the sequence leave nothing out."""
    arrays = {"w": np.ones((1, GATES[op] * 5, 4)), "r": np.ones((1, GATES[op] * 5, 5))}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    names = "x w r" if lengths is None else "x w r - n"
    arrays |= {} if lengths is None else {"n": np.array(lengths, np.int32)}
    plain = node(op, names, "y", hidden_size=5)
    ours = graph_evaluator(ir.from_proto(model([plain], arrays, {"x": [6, 2, 4]})))
    x = {"x": np.ones((6, 2, 4), np.float32)}
    if lengths == [6, 3]:
        with pytest.raises(ProofError, match="sequence_lens"):
            ours(x)
    else:
        assert ours(x)["y"].shape == (6, 1, 2, 5)
    odd = node(op, names, "y", hidden_size=5, **LEFT_OUT[op])
    with pytest.raises(ProofError, match=f"{op} with|sequence_lens"):
        graph_evaluator(ir.from_proto(model([odd], arrays, {"x": [6, 2, 4]})))(x)


@pytest.mark.parametrize(("opset", "is_alike"), [(10, False), (16, True)])
def test_roi_align_without_its_half_pixel_is_no_truth(opset, is_alike):
    arrays = {"r": np.array([[0, 0, 4, 4]], np.float32), "b": np.array([0])}
    proto = model([node("RoiAlign", "x r b", "y", output_height=2, output_width=2)], arrays,
                  {"x": [1, 2, 6, 6]}, opset=opset)  # fmt: skip
    if is_alike:
        assert graph_evaluator(ir.from_proto(proto))({"x": np.ones((1, 2, 6, 6), np.float32)})
    else:
        with pytest.raises(ProofError, match="RoiAlign"):
            graph_evaluator(ir.from_proto(proto))
