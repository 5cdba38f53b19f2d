"""Which ops are in int8, which stay float and why, and what each costs.

In: the float32 graph, the int8 one, ranges, and the noise of every tensor.  Out: `Int8Layer`s.

The noise that an op adds is what its output has beyond the noisiest of its inputs, relative to the signal:

    cost = 10^(−SQNR_out / 10) − max 10^(−SQNR_in / 10)
"""

from collections.abc import Mapping, Sequence

import onnx

from export.int8.observe import float_tensors
from export.int8.quantize import INT8_OPS, LINEAR
from export.int8.ranges import TensorRanges
from service.contract.int8 import Int8Layer

NUM_WORST = 3
_WEIGHTED = LINEAR | {"ConvTranspose"}


def kept_float(model: onnx.ModelProto) -> dict[str, str]:
    """Nodes that are not to be quantized, by name, with the reason."""
    weights = {tensor.name for tensor in model.graph.initializer}
    reasons = {}
    leads: set[str] = set()  # tensors from which a linear op is still to come
    for node in reversed(model.graph.node):
        if node.op_type in _WEIGHTED or leads & set(node.output):
            leads |= set(node.input)
        elif node.op_type in INT8_OPS:
            reasons[node.name] = "no linear op comes after it: it makes the answers"
        if node.op_type in LINEAR and (len(node.input) < 2 or node.input[1] not in weights):
            reasons[node.name] = "its weights are computed at run time"
        if node.op_type == "Clip" and _cuts_zero_off(node, model):
            # A range holds 0, and a Clip whose output is rounded is left out: 0 … min would come through.
            reasons[node.name] = "its limits leave out 0"
    return reasons


def last_linear(model: onnx.ModelProto) -> frozenset[str]:
    """The MatMuls and Gemms after which no linear op comes: what they put out is not rounded."""
    leads: set[str] = set()
    found = set()
    for node in reversed(model.graph.node):
        if node.op_type in ("MatMul", "Gemm") and not leads & set(node.output):
            found.add(node.name)
        if node.op_type in _WEIGHTED or leads & set(node.output):
            leads |= set(node.input)
    return frozenset(found)


def _cuts_zero_off(clip: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    given = {attribute.name: attribute.f for attribute in clip.attribute}
    for index, name in ((1, "min"), (2, "max")):
        limit = given.get(name)
        if len(clip.input) > index and clip.input[index]:
            if (tensor := arrays.get(clip.input[index])) is None:
                return True  # computed at run time
            limit = float(onnx.numpy_helper.to_array(tensor).ravel()[0])
        if limit is not None and (limit > 0 if name == "min" else limit < 0):
            return True
    return False


def layers_of(
    model: onnx.ModelProto,
    int8: onnx.ModelProto,
    reasons: Mapping[str, str],
    found: TensorRanges,
    noise: Mapping[str, float],
) -> list[Int8Layer]:
    """Every op that makes a float tensor, in order; a Relu or Clip that its range replaces is left out."""
    floats = set(float_tensors(model))
    written = {node.name: node for node in int8.graph.node}
    merged = _merged(model, written)
    layers = []
    for node in model.graph.node:
        twin = written.get(node.name)
        if twin is None or not node.output or node.output[0] not in floats:
            continue
        name = merged.get(node.output[0], node.output[0])
        is_int8 = bool(twin.input) and twin.input[0].endswith("_DequantizeLinear_Output")
        is_rounded = any(other.input[:1] == [twin.output[0]] and other.op_type == "QuantizeLinear"
                         for other in int8.graph.node)  # fmt: skip
        low, high = found.ranges[name] if is_rounded else (None, None)
        layers.append(
            Int8Layer(
                name=node.name,
                op_type=node.op_type,
                status="int8" if is_int8 and node.op_type in INT8_OPS else "float",
                reason=None
                if is_int8 and node.op_type in INT8_OPS
                else reasons.get(node.name) or _reason(node.op_type),
                sqnr_db=noise.get(name),
                low=low,
                high=high,
                range_source=found.sources[name] if is_rounded else None,
            )
        )
    return layers


def _reason(op_type: str) -> str:
    if op_type in INT8_OPS:
        return "what it reads stays float"
    return f"ONNX Runtime computes {op_type} in float"


def _merged(model: onnx.ModelProto, written: Mapping[str, onnx.NodeProto]) -> dict[str, str]:
    """Outputs of ops whose Relu or Clip is gone, and the name that they have now."""
    return {
        node.input[0]: node.output[0]
        for node in model.graph.node
        if node.op_type in ("Relu", "Clip") and node.name not in written
    }


def costliest(
    model: onnx.ModelProto, layers: Sequence[Int8Layer], noise: Mapping[str, float]
) -> list[Int8Layer]:
    """The layers that add most noise, the worst first."""
    reads = {node.name: list(node.input) for node in model.graph.node}

    def cost(layer: Int8Layer) -> float:
        before = [10 ** (-noise[name] / 10) for name in reads[layer.name] if name in noise]
        return 10 ** (-(layer.sqnr_db or 0) / 10) - max(before, default=0.0)

    measured = [layer for layer in layers if layer.sqnr_db is not None]
    return sorted(measured, key=cost, reverse=True)[:NUM_WORST]


def named(layers: Sequence[Int8Layer]) -> str:
    """Layers in a sentence."""
    return ", ".join(f"{layer.op_type} '{layer.name}' ({layer.sqnr_db:.1f} dB)" for layer in layers)
