"""Carry what BatchNorms know through a graph: ranges without data.

In: a graph before its fold.  Out: the same graph, with `Moments` at every tensor that they reach.

    before a BatchNorm   mean μ, deviation σ          after it   mean β, deviation |γ|
    Relu → BatchNorm     the same, within the Relu's own bounds and 9σ
    y = f(x), f one of   Relu, Clip, Sigmoid …        the moments of f of a normal, cut at 6σ
    x + y                sums of means and of bounds, cut at 7σ; deviations as of a correlation of 1/2
    pools                mean and deviation of one number; 4σ bound an average of all places

Each channel's numbers are taken for normal, which is what a BatchNorm's statistics describe.  They end at a
linear op with no BatchNorm after it: its inputs are correlated, and no statistic says how.
"""

import numpy as np
import onnx_ir as ir

from export.fold.batchnorm import BatchNorm, read_batchnorm
from export.graph.edit import constant, onnx_op
from export.graph.moments import SIGMAS, Moments, know, moments_of, normal
from export.int8.before import know_before
from export.int8.functions import Function, function_between, function_of, times_x

AVERAGE_SIGMAS = 4.0
SKEWED_SIGMAS = 9.0
SUM_SIGMAS = 7.0
CORRELATION = 0.5
_Z = np.linspace(-SIGMAS, SIGMAS, 481)
_WEIGHTS = np.exp(-(_Z**2) / 2) / np.exp(-(_Z**2) / 2).sum()

_SAME = {
    *("Identity", "Dropout", "Cast", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
    *("Resize", "Upsample", "LRN"),
}
_IN_ORDER = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "ReduceMean"}
_RESHAPED = _IN_ORDER | {"Transpose", "Split", "Slice", "Gather"}


def carry_moments(model: ir.Model) -> int:
    """Note the moments at every tensor that they reach, in place; returns how many BatchNorms know theirs."""
    norms = {
        node: norm
        for node in model.graph
        if onnx_op(node) == "BatchNormalization" and isinstance(norm := read_batchnorm(node), BatchNorm)
    }
    for node in model.graph:
        for output in node.outputs:
            if moments_of(output) is not None:
                continue
            found = _after_norm(node, norms[node]) if node in norms else _after(node, output)
            readers = [reader for reader in output.consumers() if reader in norms]
            if readers and output is readers[0].inputs[0]:
                found = _as_read(found, readers[0])
            know(output, found)
    know_before(model)
    return len(norms)


def _statistics(node: ir.Node, rank: int) -> list[np.ndarray]:
    """γ, β, μ and σ² of a BatchNorm, in float64, to broadcast to a tensor of this rank."""
    shape = [1, -1, *[1] * (rank - 2)]
    return [np.asarray(constant(value), np.float64).reshape(shape) for value in node.inputs[1:5]]


def _after_norm(node: ir.Node, norm: BatchNorm) -> Moments | None:
    """Mean β, deviation |γ|; its bounds are those of its input, scaled and shifted, where these are known."""
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    gamma, beta, _, _ = _statistics(node, len(source.shape))
    before = moments_of(source)
    if before is None:
        return normal(beta, np.abs(gamma))
    scale, shift = (array.reshape(gamma.shape) for array in (norm.scale, norm.shift))
    ends = scale * before.low + shift, scale * before.high + shift
    return Moments(mean=beta, std=np.abs(gamma), low=np.minimum(*ends), high=np.maximum(*ends))


def _as_read(known: Moments | None, norm: ir.Node) -> Moments | None:
    """What the BatchNorm that reads a tensor says of it: mean μ and deviation σ.

    Of what comes out of a Relu they are no normal's: its own bounds count, up to 9σ.
    """
    source = norm.inputs[0]
    if source is None or source.shape is None:
        return known
    _, _, mean, variance = _statistics(norm, len(source.shape))
    std = np.sqrt(np.maximum(variance, 0))
    if known is None:
        return normal(mean, std)
    return _cut(Moments(mean=mean, std=std, low=known.low, high=known.high), SKEWED_SIGMAS)


def of_function(function: Function, x: Moments) -> Moments:
    """The moments of f(x), x being normal within its bounds."""
    ends = np.linspace(0, 1, 65).reshape(-1, *[1] * x.mean.ndim)
    z = _Z.reshape(-1, *[1] * x.mean.ndim)
    weights = _WEIGHTS.reshape(z.shape)
    values = function(np.clip(x.mean + z * x.std, x.low, x.high))
    mean = (weights * values).sum(axis=0)
    variance = (weights * (values - mean) ** 2).sum(axis=0)
    reached = function(x.low + ends * (x.high - x.low))
    return Moments(mean=mean, std=np.sqrt(variance), low=reached.min(axis=0), high=reached.max(axis=0))


def _after(node: ir.Node, output: ir.Value) -> Moments | None:
    op_type = onnx_op(node) or ""
    inputs = [moments_of(value) for value in node.inputs]
    if op_type == "Softmax" or (op_type in ("Sigmoid", "HardSigmoid") and moments_of(node.inputs[0]) is None):
        return _between(output, 0.0, 1.0)  # a squeeze-and-excitation's gate, whatever it reads
    if op_type in ("Add", "Sub", "Mul", "Div"):
        return _of_two(node, op_type)
    if op_type == "Concat":
        return _joined(node, inputs)
    if not inputs or (x := inputs[0]) is None:
        return None
    function = function_of(node)
    if function is not None:
        return of_function(function, x)
    if op_type in ("GlobalAveragePool", "ReduceMean"):
        x = _cut(x, AVERAGE_SIGMAS)  # of all places: nowhere near the extremes of one
    if op_type in _SAME:
        return x
    if op_type == "Pad":
        return Moments(mean=x.mean, std=x.std, low=np.minimum(x.low, 0), high=np.maximum(x.high, 0))
    return _reshaped(node, output, x) if op_type in _RESHAPED else None


def _of_two(node: ir.Node, op_type: str) -> Moments | None:
    arrays = [constant(value) for value in node.inputs]
    known = [moments_of(value) for value in node.inputs]
    if op_type == "Mul" and (gated := _gated(node, known)) is not None:
        return gated
    first, second = (
        _exactly(array.astype(np.float64)) if array is not None else moments
        for array, moments in zip(arrays, known, strict=True)
    )
    if first is None or second is None:
        return None
    if op_type == "Div":
        if arrays[1] is None or (arrays[1] == 0).any():
            return None
        second, op_type = _exactly(1 / arrays[1].astype(np.float64)), "Mul"
    if op_type == "Sub":
        second = second.stored(np.array(-1.0), np.array(0.0))
    return _product(first, second) if op_type == "Mul" else _sum(first, second)


def _gated(node: ir.Node, known: list[Moments | None]) -> Moments | None:
    """x · f(x), such as SiLU, whose factors are anything but independent."""
    for x, gate in ((0, 1), (1, 0)):
        root, moments = node.inputs[x], known[x]
        function = function_between(node.inputs[gate], root)
        if moments is not None and function is not None:
            return of_function(times_x(function), moments)
    return None


def _exactly(array: np.ndarray) -> Moments:
    return Moments(mean=array, std=np.zeros_like(array), low=array, high=array)


def _sum(x: Moments, y: Moments) -> Moments:
    """Terms of a residual net are alike: 6σ of independent ones would cut off what their sum reaches."""
    variance = x.std**2 + y.std**2 + 2 * CORRELATION * x.std * y.std
    whole = Moments(mean=x.mean + y.mean, std=np.sqrt(variance), low=x.low + y.low, high=x.high + y.high)
    return _cut(whole, SUM_SIGMAS)


def _cut(x: Moments, sigmas: float) -> Moments:
    """The same with bounds that are no further than so many deviations from the mean."""
    low, high = x.mean - sigmas * x.std, x.mean + sigmas * x.std
    return Moments(mean=x.mean, std=x.std, low=np.maximum(x.low, low), high=np.minimum(x.high, high))


def _product(x: Moments, y: Moments) -> Moments:
    ends = np.broadcast_arrays(x.low * y.low, x.low * y.high, x.high * y.low, x.high * y.high)
    variance = x.std**2 * y.std**2 + x.std**2 * y.mean**2 + y.std**2 * x.mean**2
    return Moments(
        mean=x.mean * y.mean, std=np.sqrt(variance), low=np.min(ends, axis=0), high=np.max(ends, axis=0)
    )


def _between(output: ir.Value, low: float, high: float) -> Moments:
    ones = np.ones([1] * len(output.shape or ()))
    return Moments(
        mean=(low + high) / 2 * ones, std=(high - low) / 4 * ones, low=low * ones, high=high * ones
    )


def _joined(node: ir.Node, parts: list[Moments | None]) -> Moments | None:
    """Concat: one after another along the channels, or all as one where sizes are not known."""
    known = [part for part in parts if part is not None]
    sizes = [value.shape[1] if value is not None and value.shape and len(value.shape) > 1 else None
             for value in node.inputs]  # fmt: skip
    if len(known) < len(parts) or not known:
        return None
    if node.attributes.get_int("axis", 1) != 1 or not all(isinstance(size, int) for size in sizes):
        return _as_one(known, known[0].mean.ndim)

    def along(name: str) -> np.ndarray:
        arrays = []
        for part, size in zip(known, sizes, strict=True):
            array = getattr(part, name)
            assert isinstance(size, int)
            arrays.append(np.broadcast_to(array, (array.shape[0], size, *array.shape[2:])))
        return np.concatenate(arrays, axis=1)

    if any(part.mean.ndim < 2 for part in known):
        return _as_one(known, known[0].mean.ndim)
    return Moments(mean=along("mean"), std=along("std"), low=along("low"), high=along("high"))


def _reshaped(node: ir.Node, output: ir.Value, x: Moments) -> Moments | None:
    """Channels that become features keep their moments; where they are mixed, all become one."""
    source = node.inputs[0]
    if output.shape is None or source is None or source.shape is None:
        return None
    rank, channels = len(output.shape), x.mean.size
    per_channel = x.mean.ndim > 1 and x.mean.shape[1] == channels
    features = output.shape[1] if rank > 1 else None
    keeps_order = onnx_op(node) in _IN_ORDER
    if not (per_channel and keeps_order and isinstance(features, int) and features % channels == 0):
        return _as_one([x], rank)
    if features != channels and rank != 2:
        return _as_one([x], rank)
    shape = [1, features, *[1] * (rank - 2)]

    def repeated(array: np.ndarray) -> np.ndarray:
        return np.repeat(array.ravel(), features // channels).reshape(shape)

    return Moments(mean=repeated(x.mean), std=repeated(x.std), low=repeated(x.low), high=repeated(x.high))


def _as_one(parts: list[Moments], rank: int) -> Moments:
    """All channels as one."""
    means = np.concatenate([part.mean.ravel() for part in parts])
    variances = np.concatenate([np.broadcast_to(part.std, part.mean.shape).ravel() ** 2 for part in parts])
    ones = np.ones([1] * rank)
    return Moments(
        mean=means.mean() * ones,
        std=np.sqrt(variances.mean() + means.var()) * ones,
        low=min(part.low.min() for part in parts) * ones,
        high=max(part.high.max() for part in parts) * ones,
    )
