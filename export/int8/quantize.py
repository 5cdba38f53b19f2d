"""Write a graph in int8 with ONNX Runtime's own quantizer, which is given the ranges.

In: a folded float32 graph and the range of every tensor.  Out: int8.onnx.

    weights       int8, one scale for each output channel          q = round(w / s)         s = max|w| / 127
    activations   uint8, one scale for each tensor                 q = round(x / s) + z
    answers       float: what the last MatMul or Gemm puts out is not rounded once more

`quantize_static` takes ranges from a calibration cache; with one there is nothing for it to calibrate.

Rounding the weights moves the mean of what an op makes.  That much is known, and taken out of its bias:

    bias'[o] = bias[o] − Σ (Ŵ − W)[o, i, k] · E[x_i]          (Nagel et al. 2019, section 4.2)
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData, save_tensors_data

from export.errors import ExportError
from service.contract.text import first_line

Ranges = Mapping[str, tuple[float, float]]
Means = Mapping[str, np.ndarray]

LINEAR = {"Conv", "Gemm", "MatMul"}
# Ops with an int8 kernel in ONNX Runtime, or that only move numbers. A Softmax or a norm loses too much.
INT8_OPS = {
    *LINEAR,
    *("Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool", "AveragePool", "GlobalAveragePool"),
    *("Concat", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Pad", "Resize", "Split", "Slice"),
}
MIN_OPSET = 13  # DequantizeLinear with one scale for each channel
_MARK = ("onnx.quant.pre_process", "onnxruntime.quant")  # without it, the quantizer logs advice on every call


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to quantize.

    Args:
        ranges: of every tensor, by name.
        floats: nodes that stay float.
        last: MatMuls and Gemms after which no linear op comes, whose output stays float.
        reduce_range: weights have 7 bits.
        integers: of weights, by name, in place of those that rounding to nearest gives.
    """

    ranges: Ranges
    floats: frozenset[str]
    last: frozenset[str] = frozenset()
    reduce_range: bool = False
    integers: Mapping[str, np.ndarray] = field(default_factory=dict)


def with_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in an opset that int8 needs; raises ExportError where ONNX cannot convert it."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= MIN_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, MIN_OPSET)
    except Exception as error:  # the converter is C++ and raises what it likes
        raise ExportError(
            f"int8 needs opset {MIN_OPSET}, and the graph's {opset} cannot be raised: {first_line(error)}"
        ) from None


def quantize(model: onnx.ModelProto, recipe: Recipe) -> onnx.ModelProto:
    """The graph in int8; raises ExportError with ONNX Runtime's reason."""
    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    onnx.helper.set_model_props(marked, {**_props(model), _MARK[0]: _MARK[1]})
    data = TensorsData(
        CalibrationMethod.MinMax,
        {
            name: TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in recipe.ranges.items()
        },
    )
    with tempfile.TemporaryDirectory(prefix="foldserve-int8-") as folder:
        cache, target = Path(folder) / "ranges.json", Path(folder) / "int8.onnx"
        save_tensors_data(data, cache)
        try:
            quantize_static(
                marked,
                target,
                calibration_cache_path=cache,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=recipe.reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=sorted(INT8_OPS),
                nodes_to_exclude=sorted(recipe.floats),
                extra_options={"MatMulConstBOnly": True},
            )
        except Exception as error:  # it raises ValueError, RuntimeError and others, for any graph it dislikes
            raise ExportError(f"ONNX Runtime's quantizer refuses the graph: {first_line(error)}") from error
        written = onnx.load(target)
    onnx.helper.set_model_props(written, _props(model))
    _float_answers(written, recipe.last)
    for tensor in written.graph.initializer:
        integers = recipe.integers.get(tensor.name.removesuffix("_quantized"))
        if integers is not None and tensor.data_type == onnx.TensorProto.INT8:
            tensor.CopyFrom(numpy_helper.from_array(integers, tensor.name))
    return written


def _props(model: onnx.ModelProto) -> dict[str, str]:
    return {prop.key: prop.value for prop in model.metadata_props}


def _float_answers(model: onnx.ModelProto, last: frozenset[str]) -> None:
    """Take QuantizeLinear and DequantizeLinear away after the last MatMuls and Gemms."""
    readers = {name: node for node in model.graph.node for name in node.input}
    outputs = {value.name for value in model.graph.output}
    for linear in [node for node in model.graph.node if node.name in last]:
        quantized = readers.get(linear.output[0])
        dequantized = readers.get(quantized.output[0]) if quantized is not None else None
        if quantized is None or quantized.op_type != "QuantizeLinear" or dequantized is None:
            continue
        seen = dequantized.output[0]
        if seen in outputs:
            linear.output[0] = seen
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                if name == seen:
                    node.input[index] = linear.output[0]
        model.graph.node.remove(quantized)
        model.graph.node.remove(dequantized)


def corrected(model: onnx.ModelProto, written: onnx.ModelProto, means: Means) -> onnx.ModelProto:
    """The float graph with the biases that the rounded weights of `written` need; quantize it again."""
    rounded = rounded_weights(written)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in changed.graph.initializer}
    for node in changed.graph.node:
        mean = means.get(node.input[0]) if node.input else None
        if node.op_type not in ("Conv", "Gemm") or mean is None or node.input[1] not in rounded:
            continue
        weight = numpy_helper.to_array(weights[node.input[1]]).astype(np.float64)
        shift = _shift(node, rounded[node.input[1]] - weight, mean)
        if shift is None:
            continue
        old = numpy_helper.to_array(weights[node.input[2]]) if len(node.input) > 2 and node.input[2] else 0.0
        name = f"{node.name}.bias_for_int8"
        changed.graph.initializer.append(numpy_helper.from_array((old - shift).astype(np.float32), name))
        if len(node.input) > 2:
            node.input[2] = name
        else:
            node.input.append(name)
    return changed


def _shift(node: onnx.NodeProto, error: np.ndarray, mean: np.ndarray) -> np.ndarray | None:
    """Σ (Ŵ − W)[o, i, k] · E[x_i], for each output o; None where the channels do not fit."""
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Gemm":
        by_output = error if attributes.get("transB", 0) else error.T
        if mean.size != by_output.shape[1] or attributes.get("transA", 0):
            return None
        shift: np.ndarray = attributes.get("alpha", 1.0) / attributes.get("beta", 1.0) * (by_output @ mean)
        return shift
    sums = error.reshape(*error.shape[:2], -1).sum(axis=2)
    groups = attributes.get("group", 1)
    if mean.size != sums.shape[1] * groups:
        return None
    inputs = mean.reshape(groups, 1, -1)
    return np.asarray((sums.reshape(groups, -1, sums.shape[1]) * inputs).sum(axis=2).reshape(-1))


def rounded_weights(written: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Ŵ of every weight that was quantized, by its name in the float graph."""
    arrays = {tensor.name: tensor for tensor in written.graph.initializer}
    rounded = {}
    for node in written.graph.node:
        name = node.input[0].removesuffix("_quantized") if node.op_type == "DequantizeLinear" else ""
        if node.op_type != "DequantizeLinear" or node.input[0] not in arrays or not name:
            continue
        integers = numpy_helper.to_array(arrays[node.input[0]])
        if integers.dtype != np.int8:
            continue
        scale = numpy_helper.to_array(arrays[node.input[1]]).astype(np.float64)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        if scale.ndim:
            scale = scale.reshape([-1 if index == axis else 1 for index in range(integers.ndim)])
        rounded[name] = integers * scale
    return rounded


def reduced(recipe: Recipe) -> Recipe:
    """The same with weights of 7 bits, for CPUs without VNNI."""
    return replace(recipe, reduce_range=True)
