"""Files as other exporters write them, made by hand after real ones: file → fold → proof → bundle → served.

The truth is the file itself in ONNX Runtime.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from export_kit import run_here
from file_kit import branch, model, node, norm, norm_arrays, value, weights
from foldserve.client import Client
from service.contract.bundle import open_bundle
from service_kit import serving

NUM_ROWS = 3
CONV = [node("Conv", "x w", "h", pads=[1] * 4), norm("h", "n"), node("Relu", "n", "r")]
HEAD = [node("GlobalAveragePool", "r", "p"), node("Flatten", "p", "f"), node("Gemm", "f d", "y")]
ARRAYS = {"w": weights(4, 3, 3, 3), **norm_arrays(4), "d": weights(4, 5)}
X = {"x": ["N", 3, 8, 8]}
CLASSES = [3, 1, 4, 7, 9]
TABLE: dict[str, Callable[[], onnx.ModelProto]] = {}
"""By the exporter and what is its own."""


def made_by(name: str) -> Callable[[Callable[[], onnx.ModelProto]], Callable[[], onnx.ModelProto]]:
    def add(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
        TABLE[name] = build
        return build

    return add


@made_by("tf2onnx-nhwc")
def tf2onnx_nhwc() -> onnx.ModelProto:
    """NHWC outside, NCHW inside, rows unknown; the flatten follows a Transpose back."""
    nodes = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "t w", "h"), norm("h", "n")]
    nodes += [node("Relu", "n", "r"), node("MaxPool", "r", "m", kernel_shape=[2, 2], strides=[2, 2])]
    nodes += [norm("m", "q", "bm"), node("Transpose", "q", "u", perm=[0, 2, 3, 1])]
    nodes += [node("Reshape", "u s", "f"), node("MatMul", "f d", "g"), node("Add", "g c", "y")]
    arrays = {
        **ARRAYS,
        **norm_arrays(4, 1, "bm"),
        "s": np.array([-1, 36]),
        "d": weights(36, 5),
        "c": weights(5),
    }
    return model(nodes, arrays, {"x": ["unk__1", 8, 8, 3]}, [value("y", ["unk__1", 5])], opset=15)


@made_by("tf2onnx-decomposed")
def tf2onnx_decomposed() -> onnx.ModelProto:
    """Keras 3: a BatchNorm is a Mul and an Add per channel."""
    channels = {"g": weights(4, 1, 1, seed=5) + 1, "b": weights(4, 1, 1, seed=6)}
    nodes = [
        node("Conv", "x w", "h"),
        node("Mul", "h g", "m"),
        node("Add", "m b", "n"),
        node("Relu", "n", "r"),
        *HEAD,
    ]
    return model(nodes, {**ARRAYS, **channels}, X, opset=18)


@made_by("paddle-old")
def paddle_old() -> onnx.ModelProto:
    """Rows of −1, every weight a Constant node, a scale of its own after the BatchNorm, opset 9."""
    nodes = [*CONV, *HEAD[:2], node("MatMul", "f d", "y")]
    proto = model(nodes, ARRAYS, {"x": [-1, 3, 8, 8]}, [value("y", [-1, 5])], opset=9)
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in proto.graph.initializer]
    nodes = [*constants, *proto.graph.node]
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


@made_by("paddle-new")
def paddle_new() -> onnx.ModelProto:
    """An Identity after each Add, and a flatten by the shape that the tensor has."""
    nodes = [
        node("Conv", "x w", "h0"),
        node("Add", "h0 c", "h1"),
        node("Identity", "h1", "h"),
        norm("h", "n"),
    ]
    nodes += [node("Relu", "n", "r"), node("GlobalAveragePool", "r", "p"), node("Shape", "p", "s0")]
    nodes += [
        node("Slice", "s0 zero one", "s1"),
        node("Concat", "s1 rest", "s", axis=0),
        node("Reshape", "p s", "f"),
    ]
    nodes += [
        node("MatMul", "f d", "g0"),
        node("Add", "g0 e", "g1"),
        node("Identity", "g1", "g"),
        norm("g", "y", "bm"),
    ]
    arrays = {"c": weights(1, 4, 1, 1), "e": weights(5), "zero": np.array([0]), "one": np.array([1])}
    arrays |= {**ARRAYS, **norm_arrays(5, 1, "bm"), "rest": np.array([-1])}
    return model(nodes, arrays, {"x": ["DynamicDimension.0", 3, 8, 8]}, opset=13)


@made_by("mxnet-opset-8")
def mxnet() -> onnx.ModelProto:
    """`spatial` and a momentum, weights that are inputs too (IR version 3), rows fixed at 1."""
    nodes = [CONV[0], norm("h", "n", spatial=1, momentum=0.9, epsilon=1e-3), CONV[2], *HEAD[:2]]
    nodes += [node("Gemm", "f d c", "y", alpha=1.0, beta=1.0)]
    arrays = {**ARRAYS, "c": weights(1, 5)}
    proto = model(nodes, arrays, {"x": [1, 3, 8, 8]}, [value("y", [1, 5])], opset=8)
    proto.ir_version = 3
    proto.graph.input.extend(value(t.name, t.dims, t.data_type) for t in proto.graph.initializer)
    return proto


@made_by("caffe-scale")
def caffe() -> onnx.ModelProto:
    """A BatchNorm without γ and β, then a Scale: a Mul and an Add."""
    plain = {**norm_arrays(4), "bn.gamma": np.ones(4, np.float32), "bn.beta": np.zeros(4, np.float32)}
    scale = {"g": weights(1, 4, 1, 1) + 1, "b": weights(1, 4, 1, 1, seed=1)}
    nodes = [*CONV[:2], node("Mul", "n g", "m"), node("Add", "m b", "a"), node("Relu", "a", "r"), *HEAD]
    return model(nodes, {**ARRAYS, **plain, **scale}, X, opset=11)


@made_by("local-function")
def local_function() -> onnx.ModelProto:
    """A block as a function of the file's own, called twice."""
    proto = model(
        [
            helper.make_node(
                "Block", ["x", "w", "bn.gamma", "bn.beta", "bn.mean", "bn.var"], ["r0"], domain="mine"
            ),
            helper.make_node(
                "Block", ["r0", "w2", "bm.gamma", "bm.beta", "bm.mean", "bm.var"], ["r"], domain="mine"
            ),
            *HEAD,
        ],
        {**ARRAYS, "w2": weights(4, 4, 3, 3), **norm_arrays(4, 1, "bm")},
        X,
        extra_domain="mine",
    )
    body = [node("Conv", "i k", "h"), node("BatchNormalization", "h g b m v", "n"), node("Relu", "n", "o")]
    proto.functions.append(
        helper.make_function("mine", "Block", list("ikgbmv"), ["o"], body, [helper.make_opsetid("", 17)])
    )
    return proto


@made_by("keep-io-float16")
def float16() -> onnx.ModelProto:
    """onnxconverter-common: float32 outside, float16 inside."""
    arrays = {name: array.astype(np.float16) for name, array in ARRAYS.items()}
    nodes = [
        node("Cast", "x", "x16", to=TensorProto.FLOAT16),
        node("Conv", "x16 w", "h"),
        *CONV[1:],
        *HEAD[:2],
    ]
    return model([*nodes, node("Gemm", "f d", "g"), node("Cast", "g", "y", to=TensorProto.FLOAT)], arrays, X)


@made_by("training-flag-if")
def training_flag() -> onnx.ModelProto:
    """torch.jit: an If on a constant, with a BatchNorm and weights of its own in a branch."""
    then = branch(
        [node("Conv", "x v", "t0"), norm("t0", "t")], "t", v=weights(4, 3, 3, 3, seed=1), **norm_arrays(4)
    )
    other = branch([node("Conv", "x k", "e")], "e", k=weights(4, 3, 3, 3))
    nodes = [node("If", "flag", "r", then_branch=then, else_branch=other), *HEAD]
    return model(nodes, {"d": weights(4, 5), "flag": np.array(True)}, X)


@made_by("uint8-and-int64")
def two_types() -> onnx.ModelProto:
    """Pixels as bytes, and a class as int64 that is embedded."""
    nodes = [node("Cast", "u", "x", to=TensorProto.FLOAT), *CONV, *HEAD[:2], node("Gather", "table k", "z0")]
    nodes += [node("Squeeze", "z0 one", "z"), node("Add", "f z", "s"), node("Gemm", "s d", "y")]
    arrays = {**ARRAYS, "table": weights(10, 4), "one": np.array([1])}
    proto = model(nodes, arrays, {"u": ["N", 3, 8, 8], "k": ["N", 1]})
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    proto.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    return proto


@made_by("onnx-ml-zipmap-free")
def several_outputs() -> onnx.ModelProto:
    """Probabilities, their place, and a map: several outputs of other ranks and types."""
    nodes = [*CONV, *HEAD[:2], node("Gemm", "f d", "l"), node("Softmax", "l", "y", axis=1)]
    nodes += [node("ArgMax", "l", "k", axis=1, keepdims=0), node("Conv", "r c", "m")]
    outputs = ["y", value("k", ["N"], TensorProto.INT64), "m"]
    return model(nodes, {**ARRAYS, "c": weights(2, 4, 1, 1)}, X, outputs)


@made_by("jax2onnx-open-sizes")
def jax2onnx() -> onnx.ModelProto:
    """The sizes that it states between ops are of another layout, and a mean divides by what a Shape says."""
    nodes = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "t w", "h", pads=[1] * 4)]
    nodes += [norm("h", "n"), node("Sigmoid", "n", "g"), node("Mul", "n g", "r")]
    nodes += [node("Shape", "r", "s", start=2, end=3), node("Cast", "s", "c", to=TensorProto.FLOAT)]
    nodes += [node("ReduceSum", "r axes", "a", keepdims=0), node("Div", "a c", "f"), node("Gemm", "f d", "y")]
    arrays = {**ARRAYS, "axes": np.array([2, 3])}
    proto = model(nodes, arrays, {"x": ["B", 8, 8, 3]}, [value("y", ["B", 5])], opset=23)
    proto.graph.value_info.extend(value(name, ["B", 8, 5, 4]) for name in "gr")
    return proto


@made_by("skl2onnx-zipmap")
def skl2onnx() -> onnx.ModelProto:
    """A classifier as it comes at defaults: its probabilities are a map from each label."""
    zipmap = helper.make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_int64s=CLASSES)
    nodes = [node("Gemm", "x d", "g"), norm("g", "n"), node("Softmax", "n", "p", axis=1), zipmap]
    nodes += [node("ArgMax", "p", "k", axis=1, keepdims=0)]
    answer = value("k", ["N"], TensorProto.INT64)
    maps = helper.make_map_type_proto(TensorProto.INT64, value("v", []).type)
    y = helper.make_value_info("y", helper.make_sequence_type_proto(maps))
    arrays = {"d": weights(4, 5), **norm_arrays(5)}
    return model(nodes, arrays, {"x": ["N", 4]}, [answer, y], extra_domain="ai.onnx.ml")


def tensor(answer: np.ndarray | list[dict[int, float]]) -> np.ndarray:
    """A tensor; the values of maps, one row a map, in the order of `CLASSES`."""
    return (
        answer if isinstance(answer, np.ndarray) else np.array([[one[c] for c in CLASSES] for one in answer])
    )


def rows_of(session: ort.InferenceSession, num_rows: int) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(3)
    types = {"tensor(uint8)": np.uint8, "tensor(int64)": np.int64}
    return {
        given.name: chance.integers(0, 10, (num_rows, *given.shape[1:])).astype(types[given.type])
        if given.type in types
        else chance.normal(size=(num_rows, *given.shape[1:])).astype(np.float32)
        for given in session.get_inputs()
    }


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, object], Client]]:
    folder, models = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("models")
    done = {}
    for name, build in TABLE.items():
        onnx.save(build(), folder / f"{name}.onnx")
        done[name] = run_here("bundle", folder / f"{name}.onnx", "--to", models / name)
    with serving(models) as server, Client(server.url) as client:
        yield folder, done, client


@pytest.mark.parametrize("name", TABLE)
def test_a_file_is_served_as_it_answers_itself(road, name):
    folder, done, client = road
    assert done[name].returncode == 0, done[name].stderr
    found = json.loads(done[name].stdout)
    assert found["folded"] + found["reduced"] == found["found"], done[name].stderr
    assert found["found"] > 0 or found["per_channel"] == {"found": 1, "folded": 1}, done[name].stderr
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
    rows = rows_of(session, NUM_ROWS)
    alone = [session.run(None, {k: v[i : i + 1] for k, v in rows.items()}) for i in range(NUM_ROWS)]
    outputs = client.infer(name, rows).outputs
    tolerances = open_bundle(Path(found["bundle"])).manifest.tolerances
    for given, *answers in zip(session.get_outputs(), *alone, strict=True):
        expected, got = np.concatenate([*map(tensor, answers)]), outputs[given.name]
        assert got.shape == expected.shape
        if got.dtype.kind != "f":
            np.testing.assert_array_equal(got, expected)
        else:  # the manifest's tolerance is of the golden rows: these are others of the same range
            assert np.abs(got - expected).max() <= 4 * tolerances[given.name].max_abs
