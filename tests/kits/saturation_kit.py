"""An int8 graph as a CPU without VNNI computes it: each pair of products summed in 16 bits, saturating.

    run = saturating(int8_onnx)     answers = run(rows)     saturating(int8_onnx, bits=32) does not saturate

Only Conv and Gemm on numbers that were dequantized saturate; all else is ONNX's reference implementation.
"""

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from service.contract.parity import Run, Tensors


def saturating(graph: bytes, bits: int = 16) -> Run:
    """A function from rows to answers, with sums of two products cut to `bits` bits."""
    model = onnx.load_from_string(graph)
    arrays: dict[str, Any] = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
    }
    producers = {name: node for node in model.graph.node for name in node.output}
    single = {
        node.output[0]: ReferenceEvaluator(
            onnx.helper.make_model(_graph_of(node), opset_imports=model.opset_import)
        )
        for node in model.graph.node
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear")
    }

    def run(rows: Tensors) -> dict[str, np.ndarray]:
        values: dict[str, Any] = {**arrays, **rows}
        for node in model.graph.node:
            sources = [producers.get(name) for name in node.input[:2]]
            if node.op_type == "QuantizeLinear":
                x, scale, zero = (values[name] for name in node.input)
                levels = np.iinfo(zero.dtype)
                made = np.clip(np.rint(x / scale) + zero, levels.min, levels.max).astype(zero.dtype)
            elif node.op_type == "DequantizeLinear":
                made = _scaled(node, values, values[node.input[0]])
            elif node.op_type in ("Conv", "Gemm") and all(
                source is not None and source.op_type == "DequantizeLinear" for source in sources
            ):
                made = _product(node, sources, values, bits)
            else:
                feed = {name: values[name] for name in node.input if name}
                for name, array in zip(node.output, single[node.output[0]].run(None, feed), strict=True):
                    values[name] = array
                continue
            values[node.output[0]] = made
        return {output.name: values[output.name] for output in model.graph.output}

    return run


def _graph_of(node: onnx.NodeProto) -> onnx.GraphProto:
    def infos(names: Any) -> list[onnx.ValueInfoProto]:
        unknown = onnx.TensorProto.UNDEFINED
        return [onnx.helper.make_tensor_value_info(name, unknown, None) for name in names if name]

    return onnx.helper.make_graph([node], "one", infos(dict.fromkeys(node.input)), infos(node.output))


def _scaled(node: onnx.NodeProto, values: dict[str, Any], integers: np.ndarray) -> np.ndarray:
    scale, zero = values[node.input[1]], values[node.input[2]]
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if scale.ndim:
        shape = [-1 if index == axis else 1 for index in range(integers.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return ((integers.astype(np.int64) - zero) * scale).astype(np.float32)


def _product(node: onnx.NodeProto, sources: list[Any], values: dict[str, Any], bits: int) -> np.ndarray:
    """x · w for uint8 x and int8 w in pairs; the zero point of x is taken off afterwards, exactly."""
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    x, w = (values[source.input[0]].astype(np.int32) for source in sources)
    x_scale, x_zero = (values[name] for name in sources[0].input[1:3])
    w_scale = np.ravel(values[sources[1].input[1]])
    if node.op_type == "Gemm":
        w = w if attributes.get("transB", 0) else w.T
        sums = _in_pairs(x, w, int(x_zero), bits)
        return _with_bias(sums * (x_scale * w_scale), node, values, (1, -1))
    groups, (kernel_h, kernel_w) = attributes.get("group", 1), w.shape[2:]
    pads = attributes.get("pads", [0, 0, 0, 0])
    padded = np.pad(x, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])], constant_values=int(x_zero))
    strides = attributes.get("strides", [1, 1])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel_h, kernel_w), axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1]]
    parts = []
    for inputs, weights in zip(np.split(windows, groups, axis=1), np.split(w, groups), strict=True):
        columns = inputs.transpose(0, 2, 3, 4, 5, 1)  # kernel before channels, as ONNX Runtime's int8 Conv
        flat = columns.reshape(-1, int(np.prod(columns.shape[3:])))
        sums = _in_pairs(flat, weights.transpose(0, 2, 3, 1).reshape(len(weights), -1), int(x_zero), bits)
        parts.append(sums.reshape(*columns.shape[:3], -1).transpose(0, 3, 1, 2))
    scaled = np.concatenate(parts, axis=1) * (x_scale * w_scale).reshape(1, -1, 1, 1)
    return _with_bias(scaled, node, values, (1, -1, 1, 1))


def _in_pairs(x: np.ndarray, w: np.ndarray, zero: int, bits: int) -> np.ndarray:
    """Σ (x − zero) · w over the last axes, each two products cut to `bits` bits before they are added up."""
    if x.shape[1] % 2:
        x, w = (np.pad(array, [(0, 0), (0, 1)]) for array in (x, w))
    limit = 2 ** (bits - 1)
    total = np.zeros((len(x), len(w)), np.int64)
    for start in range(0, x.shape[1], 2):
        pair = x[:, None, start] * w[None, :, start] + x[:, None, start + 1] * w[None, :, start + 1]
        total += np.clip(pair, -limit, limit - 1)
    return total - zero * w.sum(axis=1)


def _with_bias(
    sums: np.ndarray, node: onnx.NodeProto, values: dict[str, Any], shape: tuple[int, ...]
) -> np.ndarray:
    bias = values[node.input[2]].reshape(shape) if len(node.input) > 2 and node.input[2] else 0.0
    return (sums + bias).astype(np.float32)
