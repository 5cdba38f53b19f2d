"""Small ONNX graphs around a BatchNormalization, and their truth in float64."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def batchnorm_arrays(channels: int, seed: int, *, variance: float | None = None) -> dict[str, np.ndarray]:
    """γ of both signs, β, μ, σ² for one BatchNormalization, as initialisers named bn.*"""
    random = np.random.default_rng(seed)
    return {
        "bn.gamma": random.normal(size=channels),
        "bn.beta": random.normal(size=channels),
        "bn.mean": random.normal(size=channels),
        "bn.var": np.full(channels, variance) if variance is not None else random.uniform(0.3, 2, channels),
    }


def batchnorm(source: str, output: str, **attributes: object) -> onnx.NodeProto:
    names = [source, "bn.gamma", "bn.beta", "bn.mean", "bn.var"]
    return helper.make_node("BatchNormalization", names, [output], name="bn", **attributes)


def graph(
    nodes: Sequence[onnx.NodeProto],
    arrays: dict[str, np.ndarray],
    input_shape: Sequence[int | str],
    outputs: Sequence[str] = ("y",),
    *,
    dtype: type = np.float64,
    opset: int = 20,
    extra_inputs: Sequence[onnx.ValueInfoProto] = (),
) -> onnx.ModelProto:
    """A model with input x and the given outputs (shapes inferred), all weights in `dtype`."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_model(
        helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info("x", kind, list(input_shape)), *extra_inputs],
            [helper.make_tensor_value_info(name, kind, None) for name in outputs],
            [
                numpy_helper.from_array(array if array.dtype.kind in "bi" else array.astype(dtype), name=name)
                for name, array in arrays.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10 if opset >= 9 else 3,
    )


def value(name: str, shape: Sequence[int | str], kind: int = TensorProto.DOUBLE) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))
