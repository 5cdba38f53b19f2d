"""What is known of a tensor from what is known after it: ranges of tensors that no BatchNorm reads.

In: a graph with `Moments` at what BatchNorms know.  Out: the same graph, with moments at more tensors.

    Concat → BatchNorm            each part has its channels' moments
    x + f(x) → BatchNorm          a residual branch that ends in a Conv: what is left of the sum without x
    AveragePool → BatchNorm       the same mean; a number spreads more than the average of its neighbours
"""

import numpy as np
import onnx_ir as ir

from export.graph.edit import constant, onnx_op
from export.graph.moments import Moments, know, moments_of, normal

OPPOSED = 0.25  # how far a residual branch may be correlated against what it is added to
SPREAD = 1.5  # of a number, over that of an average of few neighbours


def know_before(model: ir.Model) -> None:
    """Note the moments of every tensor that its reader's output tells, from the last node to the first."""
    for node in reversed(model.graph):
        after = moments_of(node.outputs[0]) if node.outputs else None
        if after is None:
            continue
        op_type = onnx_op(node)
        if op_type == "Concat":
            _know_parts(node, after)
        elif op_type == "Add":
            _know_terms(node, after)
        elif op_type in ("Identity", "Dropout", "AveragePool"):
            spread = SPREAD if op_type == "AveragePool" else 1.0
            _know(node.inputs[0], normal(after.mean, spread * after.std))


def _know(value: ir.Value | None, moments: Moments) -> None:
    is_made = value is not None and value.producer() is not None and constant(value) is None
    if value is None or not is_made or moments_of(value) is not None or value.shape is None:
        return
    if len(value.shape) == moments.mean.ndim:
        know(value, moments)


def _know_parts(concat: ir.Node, whole: Moments) -> None:
    sizes = [value.shape[1] if value is not None and value.shape and len(value.shape) > 1 else None
             for value in concat.inputs]  # fmt: skip
    numbers = [size for size in sizes if isinstance(size, int)]
    if concat.attributes.get_int("axis", 1) != 1 or len(numbers) < len(sizes) or whole.mean.ndim < 2:
        return
    if whole.mean.shape[1] != sum(numbers):
        return
    ends = np.cumsum([0, *numbers])
    for value, start, end in zip(concat.inputs, ends[:-1], ends[1:], strict=True):
        _know(value, normal(whole.mean[:, start:end], whole.std[:, start:end]))


def _know_terms(add: ir.Node, total: Moments) -> None:
    """Of σ² = σ_f² + σ_x² + 2·c·σ_f·σ_x the σ_f for c = −OPPOSED; with both unknown, neither exceeds σ."""
    first, second = add.inputs
    for branch, other in ((first, second), (second, first)):
        rest = moments_of(other)
        if rest is None or rest.mean.ndim != total.mean.ndim:
            continue
        left = total.std**2 - (1 - OPPOSED**2) * rest.std**2
        std = np.maximum(OPPOSED * rest.std + np.sqrt(np.maximum(left, 0)), rest.std - total.std)
        _know(branch, normal(total.mean - rest.mean, std))
    if moments_of(first) is None and moments_of(second) is None:
        for branch in (first, second):
            _know(branch, normal(_mean_of_conv(branch, total.mean), total.std))


def _mean_of_conv(value: ir.Value | None, otherwise: np.ndarray) -> np.ndarray:
    """E[y] = bias + Σ W · E[x] of what a Conv makes, borders aside; half of `otherwise` of anything else."""
    conv = value.producer() if value is not None else None
    if conv is None or onnx_op(conv) != "Conv" or (x := moments_of(conv.inputs[0])) is None:
        return otherwise / 2
    weight = constant(conv.inputs[1])
    bias = constant(conv.inputs[2]) if len(conv.inputs) > 2 else np.zeros(1)
    groups = conv.attributes.get_int("group", 1)
    if weight is None or bias is None or x.mean.size != weight.shape[1] * groups:
        return otherwise / 2
    sums = weight.reshape(groups, -1, *weight.shape[1:2], int(np.prod(weight.shape[2:]))).sum(axis=3)
    means = (sums * x.mean.reshape(groups, 1, -1)).sum(axis=2).ravel() + bias
    return np.asarray(means.reshape(1, -1, *[1] * (otherwise.ndim - 2)))
