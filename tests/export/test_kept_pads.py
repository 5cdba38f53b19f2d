"""A Pad of zeros before a pool is what it says, however ONNX Runtime would merge the two."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from export.compute.runtime import load
from export.graph.prepare import prepare
from export_kit import run_here
from file_kit import model, node, norm, norm_arrays, weights
from service.contract.bundle import open_bundle

X = {"x": ["N", 3, 8, 8]}
BORDER = [0, 0, 1, 1, 0, 0, 1, 1]


def net(
    opset: int,
    activation: str,
    *,
    cast: bool = False,
    border: Sequence[int] = BORDER,
    kind: str = "MaxPool",
    size: int = 3,
    **pool: object,
) -> onnx.ModelProto:
    """As the first layers of Keras's ResNet50V2: Conv, zero padding, MaxPool; shifted below 0."""
    pad = node("Pad", "a", "p", pads=border) if opset < 11 else node("Pad", "a border", "p")
    nodes = [node("Conv", "x w b", "c"), norm("c", "n"), node(activation, "n", "a"), pad]
    nodes += [node("Cast", "p", "q", to=onnx.TensorProto.FLOAT)] if cast else []
    nodes += [node(kind, "q" if cast else "p", "y", kernel_shape=[size, size], strides=[2, 2], **pool)]
    arrays = {
        "w": weights(4, 3, 3, 3),
        "b": np.full(4, 0 if activation == "Relu" else -20, np.float32),
        **norm_arrays(4),
    }
    return model(nodes, arrays | ({"border": np.array(border)} if opset >= 11 else {}), X, opset=opset)


@pytest.mark.parametrize("opset", [8, 10, 11, 13, 18, 21])
@pytest.mark.parametrize("pool", [{}, {"pads": [0, 0, 0, 0]}, {"auto_pad": "NOTSET"}])
def test_a_net_that_is_negative_there_is_served_as_its_file_says(tmp_path, opset, pool):
    proto = net(opset, "Neg" if opset == 8 else "Identity", **pool)
    assert_served(proto, tmp_path)


def test_through_a_cast_too(tmp_path):
    assert_served(net(17, "Identity", cast=True), tmp_path)


@pytest.mark.parametrize(("activation", "is_apart"), [("Identity", True), ("Elu", True), ("Relu", False)])
def test_after_a_relu_the_pool_stays_as_it_was(tmp_path, activation, is_apart):
    onnx.save(net(17, activation, pads=[0, 0, 0, 0]), tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert done.returncode == 0, done.stderr
    pool = onnx.load(tmp_path / "out.onnx").graph.node[-1]
    assert ("auto_pad" in {attribute.name for attribute in pool.attribute}) == is_apart


@pytest.mark.parametrize("opset", [8, 10, 11, 13, 18, 21])
@pytest.mark.parametrize(
    "pool", [{"pads": [1, 1, 1, 1]}, {"pads": [0, 0, 1, 1]}, {"ceil_mode": 1}, {"auto_pad": "SAME_UPPER"}]
)
def test_a_pool_with_padding_of_its_own_too(tmp_path, opset, pool):
    opset = max(opset, 10) if "ceil_mode" in pool else opset
    assert_served(net(opset, "Neg" if opset == 8 else "Identity", **pool), tmp_path)


@pytest.mark.parametrize("opset", [13, 21])
def test_such_a_pool_behind_a_cast_and_what_was_written_again(tmp_path, opset):
    assert_served(net(opset, "Identity", cast=True, pads=[1, 1, 1, 1]), tmp_path)
    (tmp_path / "again").mkdir()
    assert_served(onnx.load(tmp_path / "m/1/model.onnx"), tmp_path / "again")


@pytest.mark.parametrize("opset", [8, 11, 17, 21])
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(("size", "border"), [(1, BORDER), (3, [0, 0, 3, 0, 0, 0, 0, 0])])
def test_padding_that_a_pool_cannot_have_stays_apart(tmp_path, opset, kind, size, border):
    """As in Shake-Shake, which shifts a map by one pixel before it takes every second."""
    assert_served(net(opset, "Relu", kind=kind, size=size, border=border), tmp_path)


@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_so_does_that_which_costs_windows(tmp_path, opset, kind):
    wide = [0, 0, 2, 2, 0, 0, 2, 2]
    assert_served(net(opset, "Relu", kind=kind, border=wide, ceil_mode=1), tmp_path)


def test_an_average_that_may_have_the_padding_is_merged_with_it():
    proto = net(17, "Identity", kind="AveragePool", pads=[0, 0, 0, 0])
    pool = prepare(ir.from_proto(proto)).graph[-1]
    assert "auto_pad" not in pool.attributes


def test_that_of_the_pool_counts_too(tmp_path):
    assert_served(net(17, "Relu", pads=[2, 2, 2, 2]), tmp_path)


def assert_served(proto: onnx.ModelProto, folder) -> None:
    onnx.save(proto, folder / "in.onnx")
    done = run_here("bundle", folder / "in.onnx", "--to", folder / "m")
    assert done.returncode == 0, done.stderr
    assert open_bundle(folder / "m/1").manifest
    rows = {"x": np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)}
    expected = load(proto.SerializeToString(), optimised=False)(rows)["y"]
    session = ort.InferenceSession(folder / "m/1/model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, rows)[0], expected, atol=1e-5 * np.abs(expected).max())
