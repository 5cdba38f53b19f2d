"""Round weights so that their errors cancel in what the layer makes of real inputs.

In: a float32 graph, its int8 twin, and rows.  Out: integers for the weights of Convs and Gemms.

Rounding to nearest takes each weight alone.  What counts is the error of a sum over inputs x of covariance H:

    E[((ŵ − w) · (x − E[x]))²] = (ŵ − w)ᵀ H (ŵ − w)          E[x] is the bias's matter: `quantize.corrected`

One weight after another is rounded, the largest H_ii first, and those that are still to come make up for its
error, as far as their inputs are correlated with its own (Frantar et al. 2022, GPTQ):

    H⁻¹ = UᵀU          e = (w_i − ŵ_i) / U_ii          w_j ← w_j − e · U_ij          for j > i
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import numpy_helper

from export.compute.runtime import load
from export.int8.observe import showing

Integers = dict[str, np.ndarray]

MAX_TAPS = 1800  # weights of one output, 200 channels of 3 × 3: time grows with the cube
POSITIONS = 512  # of a Conv's places in a batch, drawn by chance
DAMPING = 0.01  # of the mean of H_ii: keeps what few rows say of rare inputs from moving other weights far
BLOCK = 64


@dataclass(kw_only=True, eq=False)
class _Inputs:
    """Sums over what a layer of G groups reads: x (G, D) and x xᵀ (G, D, D), D weights for each output."""

    count: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(()))
    products: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def add(self, patches: np.ndarray) -> None:
        """Of shape (G, N, D)."""
        self.count += patches.shape[1]
        self.sums = self.sums + patches.sum(axis=1)
        self.products = self.products + patches.transpose(0, 2, 1) @ patches

    @property
    def covariance(self) -> np.ndarray:
        """H, damped: (G, D, D)."""
        mean = self.sums.astype(np.float64) / self.count
        exact = self.products.astype(np.float64) / self.count - mean[:, :, None] * mean[:, None, :]
        diagonal = np.einsum("gii->gi", exact)
        damp = DAMPING * diagonal.mean(axis=1, keepdims=True) + 1e-12
        return np.asarray(exact + (damp * np.ones_like(diagonal))[:, :, None] * np.eye(exact.shape[1]))


def adapted(
    model: onnx.ModelProto, written: onnx.ModelProto, batches: Iterable[Mapping[str, np.ndarray]]
) -> Integers:
    """Integers by the weights' names in the float graph, for those scales that `written` has.

    Takes batches of rows like those that are served.  Layers of over MAX_TAPS weights an output are left out.
    """
    nearest = _weights(written)
    arrays = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in nearest}
    layers = [node for node in model.graph.node if _is_adaptable(node, model, arrays)]
    inputs = {node.name: _Inputs() for node in layers}
    run = load(showing(model, {node.input[0] for node in layers}), optimised=False)
    chance = np.random.default_rng(0)
    for rows in batches:
        tensors = {**rows, **run(rows)}
        for node in layers:
            weight = arrays[node.input[1]]
            inputs[node.name].add(_patches(node, tensors[node.input[0]], list(weight.dims), chance))
    found = {}
    for node in layers:
        name = node.input[1]
        rounded = _adapt(numpy_helper.to_array(arrays[name]), nearest[name], node, inputs[node.name])
        if rounded is not None:
            found[name] = rounded
    return found


def _adapt(
    weight: np.ndarray, nearest: tuple[np.ndarray, np.ndarray], node: onnx.NodeProto, inputs: _Inputs
) -> np.ndarray | None:
    """None where the inputs tell nothing: not finite, or no covariance that can be inverted."""
    integers, scale = nearest
    by_output = weight if _outputs_first(node) else weight.T
    groups = len(inputs.sums)
    exact = by_output.reshape(groups, len(by_output) // groups, -1).astype(np.float64)
    steps = np.broadcast_to(scale, len(by_output)).reshape(groups, -1)
    limit = int(np.abs(integers.astype(np.int64)).max())  # 127, or 64 for CPUs without VNNI
    covariance = inputs.covariance
    if not np.isfinite(covariance).all():
        return None
    try:
        rounded = _round(exact, steps, covariance, limit).reshape(by_output.shape)
    except np.linalg.LinAlgError:
        return None
    return np.ascontiguousarray(rounded if _outputs_first(node) else rounded.T)


def _round(weights: np.ndarray, steps: np.ndarray, covariance: np.ndarray, limit: int) -> np.ndarray:
    """Integers (G, O, D) for weights (G, O, D), steps (G, O) and H (G, D, D)."""
    order = np.argsort(-np.einsum("gii->gi", covariance), axis=1)
    rows, columns = order[:, :, None], order[:, None, :]
    groups = np.arange(len(order))[:, None, None]
    inverse = np.linalg.inv(covariance[groups, rows, columns])
    upper = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2).transpose(0, 2, 1)
    left = np.take_along_axis(weights, columns, axis=2)
    integers = np.empty_like(left)
    for start in range(0, left.shape[2], BLOCK):
        end = min(start + BLOCK, left.shape[2])
        errors = np.empty((*left.shape[:2], end - start))
        for index in range(start, end):
            column = left[:, :, index]
            integers[:, :, index] = rounded = np.clip(np.rint(column / steps), -limit, limit)
            error = (column - rounded * steps) / upper[:, index, index, None]
            left[:, :, index + 1 : end] -= error[:, :, None] * upper[:, None, index, index + 1 : end]
            errors[:, :, index - start] = error
        left[:, :, end:] -= errors @ upper[:, start:end, end:]  # at once: one by one, memory is the limit
    back = np.empty_like(integers)
    np.put_along_axis(back, np.broadcast_to(columns, left.shape), integers, axis=2)
    return back.astype(np.int8)


def _weights(written: onnx.ModelProto) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Integers and scales of what is rounded, by its name in the float graph."""
    arrays = {tensor.name: tensor for tensor in written.graph.initializer}
    found = {}
    for node in written.graph.node:
        integers = arrays.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if integers is not None and integers.data_type == onnx.TensorProto.INT8:
            scale = numpy_helper.to_array(arrays[node.input[1]]).astype(np.float64)
            found[node.input[0].removesuffix("_quantized")] = numpy_helper.to_array(integers), scale
    return found


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _outputs_first(node: onnx.NodeProto) -> bool:
    return node.op_type == "Conv" or bool(_attributes(node).get("transB", 0))


def _is_adaptable(
    node: onnx.NodeProto,
    model: onnx.ModelProto,
    arrays: Mapping[str, onnx.TensorProto],
) -> bool:
    """Rounded, of few taps, read by this layer alone, and with its padding in numbers."""
    if node.op_type not in ("Conv", "Gemm") or node.input[1] not in arrays:
        return False
    readers = sum(node.input[1] in other.input for other in model.graph.node)
    given, dims = _attributes(node), arrays[node.input[1]].dims
    taps = int(np.prod(dims[1:])) if _outputs_first(node) else dims[0]
    is_plain = given.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID") and not given.get("transA", 0)
    return readers == 1 and is_plain and taps <= MAX_TAPS


def _patches(
    node: onnx.NodeProto, array: np.ndarray, dims: list[int], chance: np.random.Generator
) -> np.ndarray:
    """What each output of a batch is a sum over: (G, N, D), N places drawn by chance."""
    if node.op_type == "Gemm":
        return array[None]
    given, rank = _attributes(node), len(dims) - 2
    groups = int(given.get("group", 1))
    pads = list(given.get("pads", [0] * 2 * rank))
    steps, gaps = (list(given.get(name, [1] * rank)) for name in ("strides", "dilations"))
    around = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
    reach = [(size - 1) * gap + 1 for size, gap in zip(dims[2:], gaps, strict=True)]
    windows = sliding_window_view(np.pad(array, around), reach, axis=tuple(range(2, 2 + rank)))
    windows = windows[(slice(None), slice(None), *(slice(None, None, step) for step in steps),
                       *(slice(None, None, gap) for gap in gaps))]  # fmt: skip
    places = np.stack(
        [chance.integers(0, size, POSITIONS) for size in (len(array), *windows.shape[2 : 2 + rank])]
    )
    drawn = windows[(places[0], slice(None), *places[1:])]  # (N, C, taps)
    return drawn.reshape(POSITIONS, groups, -1).transpose(1, 0, 2)
