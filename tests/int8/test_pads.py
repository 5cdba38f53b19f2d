"""Pads become the padding of the Convs that read them: the same answers, bit for bit; any other Pad stays."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from export.int8.pads import merge_pads
from file_kit import model, node, value, weights

SAME = [0, 0, 0, 1, 0, 0, 1, 2]
"""As TensorFlow pads for a stride of 2: less before than after."""


def graph(pads: list[int], *, conv: dict[str, object] | None = None, **changes: object) -> onnx.ModelProto:
    """x → Pad → Conv; `changes`: another `value` or `mode`, or a `second` reader of the Pad."""
    mode = changes.get("mode", "constant")
    nodes = [node("Pad", "x p v", "b", mode=mode), node("Conv", "b w", "y", **(conv or {}))]
    outputs = [value("y", ["N", 4, "a", "b"])]
    if changes.get("second"):
        nodes.append(node("Relu", "b", "z"))
        outputs.append(value("z", ["N", "c", "d", "e"]))
    arrays = {"w": weights(4, 3 + pads[1] + pads[5], 3, 3), "p": np.array(pads)}
    arrays["v"] = np.array(changes.get("value", 0.0), np.float32)
    return model(nodes, arrays, {"x": ["N", 3, 9, 8]}, outputs, opset=17)


def answer(proto: onnx.ModelProto) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(2, 3, 9, 8)).astype(np.float32)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": rows})[0])


@pytest.mark.parametrize(
    ("conv", "pads"),
    [
        ({"strides": [2, 2]}, [0, 1, 1, 2]),
        ({"pads": [1, 0, 2, 1]}, [1, 1, 3, 3]),
        ({"auto_pad": "VALID"}, [0, 1, 1, 2]),
    ],
)
def test_zeros_around_a_picture_are_the_convs(conv: dict[str, object], pads: list[int]) -> None:
    proto = graph(SAME, conv=conv)
    merged = merge_pads(proto)
    (only,) = merged.graph.node
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in only.attribute}
    assert (only.op_type, given["pads"], "auto_pad" in given) == ("Conv", pads, False)
    np.testing.assert_array_equal(answer(merged), answer(proto))
    assert len(proto.graph.node) == 2


@pytest.mark.parametrize(
    "proto",
    [
        graph(SAME, value=1.0),
        graph(SAME, mode="edge"),
        graph(SAME, second=True),
        graph(SAME, conv={"auto_pad": "SAME_UPPER"}),
        graph([0, 0, 0, 0, 0, 1, 0, 0]),
        graph([0, 0, -1, 0, 0, 0, 0, 0]),
    ],
    ids=["ones", "edge", "two readers", "SAME", "channels", "cut"],
)
def test_any_other_pad_stays(proto: onnx.ModelProto) -> None:
    assert [each.op_type for each in merge_pads(proto).graph.node] == [
        each.op_type for each in proto.graph.node
    ]
