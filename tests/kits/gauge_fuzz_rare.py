"""Ops of random graphs that few nets hold: choices, norms, LayerNorms, sums along an axis, contractions.

In: a `Grower`, a tensor.  Out: the tensors of the op added; of opset 7 or 9 another op, where it is younger.
"""

import numpy as np

from fuzz_grower import Grower, Size, Tensor


def same_shape(g: Grower, size: Size) -> str:
    """Another tensor of this shape, or a constant that is broadcast to it: not before opset 8."""
    others = [name for name, other in g.tensors if other == size]
    shapes = ((), (size[0], *[1] * (len(size) - 1)), size)
    if g.net.opset < 8 or g.chance(0.7):
        return str(g.pick(*others))
    return g.net.constant(g.random.normal(size=g.pick(*shapes)))


def choose(g: Grower, x: str, size: Size) -> list[Tensor]:
    """Max, Min and Where; the condition is a constant, or computed from a tensor."""
    other = same_shape(g, size)
    first, second = g.pick((x, other), (other, x))
    if g.net.opset < 9 or g.chance(0.5):
        return [(g.net.op(str(g.pick("Max", "Min")), *((x, second) if first == x else (first, x))), size)]
    condition = (
        g.net.constant(g.random.random(size) < 0.5)
        if g.chance(0.6)
        else g.net.op(
            "Greater", str(g.pick(*(name for name, found in g.tensors if found == size))), g.net.constant(0.1)
        )
    )
    return [(g.net.op("Where", condition, *((x, second) if first == x else (first, x))), size)]


def sign(g: Grower, x: str, size: Size) -> list[Tensor]:
    return [(g.net.op(str(g.pick("Neg", "Abs")), x), size)]


def summed_norms(g: Grower, x: str, size: Size) -> list[Tensor]:
    """Two BatchNorms of one tensor, or one and the tensor itself."""
    other = x if g.chance(0.5) else g.norm(x, size)[0]
    return [(g.net.op("Add", g.norm(x, size)[0], other), size)]


def product(g: Grower, x: str, size: Size) -> list[Tensor]:
    """By a computed tensor that is no gate, and keeps the numbers small."""
    others = [name for name, other in g.tensors if other == size]
    return [(g.net.op("Mul", x, g.net.op("Sin", str(g.pick(*others)))), size)]


def norm_of_places(g: Grower, x: str, size: Size) -> list[Tensor]:
    """One number for each channel."""
    axes = list(range(2, len(size) + 1)) or [1]
    kind = str(g.pick("ReduceMin", "ReduceL1", "ReduceL2"))
    return [
        (g.net.reduce(kind, x, axes, keepdims=1), (size[0], *[1] * (len(size) - 1)) if axes[0] > 1 else (1,))
    ]


def norm_pool(g: Grower, x: str, size: Size) -> list[Tensor]:
    channels, *places = size
    power = int(g.pick(1, 2, 3))
    if min(places) < 2:
        return sign(g, x, size)
    y = g.net.op("LpPool", x, kernel_shape=[2, 2], strides=[2, 1], p=power)
    return [(y, (channels, (places[0] - 2) // 2 + 1, places[1] - 1))]


def cumulative(g: Grower, x: str, size: Size) -> list[Tensor]:
    if g.net.opset < 11:
        return sign(g, x, size)
    return [(g.net.op("CumSum", x, g.net.constant(np.array(int(g.random.integers(1, len(size) + 1))))), size)]


def left_product(g: Grower, x: str, size: Size) -> list[Tensor]:
    """A constant matrix from the left: it mixes the last axis but one."""
    count = int(g.pick(2, 3, size[-2]))
    return [(g.net.op("MatMul", g.weight(count, size[-2]), x), (*size[:-2], count, size[-1]))]


def einsum(g: Grower, x: str, size: Size) -> list[Tensor]:
    """A constant on the channels, or on the last axis; its operands in either order."""
    if g.net.opset < 13:
        return sign(g, x, size)
    letters, count = "rcthw"[: len(size) + 1], int(g.pick(2, 4, size[0]))
    axis = int(g.pick(1, len(size)))
    made = letters.replace(letters[axis], "o")
    weight, term = g.weight(size[axis - 1], count), f"{letters[axis]}o"
    new = (*size[: axis - 1], count, *size[axis:])
    if g.chance(0.5):
        return [(g.net.op("Einsum", x, weight, equation=f"{letters},{term}->{made}"), new)]
    return [(g.net.op("Einsum", weight, x, equation=f"{term},{letters}->{made}"), new)]


def normalized(g: Grower, x: str, size: Size) -> list[Tensor]:
    """By its own mean and deviation: over the places of each channel, the last axis, or all axes."""
    if g.net.opset < 17 or (len(size) > 1 and g.chance(0.5)):
        if len(size) < 2 or np.prod(size[1:]) < 2:
            return sign(g, x, size)
        return [(g.net.op("InstanceNormalization", x, g.net.factor(size[0]), g.weight(size[0])), size)]
    axis = int(g.pick(1, len(size)))
    parameters = [g.net.factor(*size[axis - 1 :]), *([g.weight(*size[axis - 1 :])] if g.chance(0.6) else [])]
    if np.prod(size[axis - 1 :]) < 2:
        return sign(g, x, size)
    return [(g.net.op("LayerNormalization", x, *parameters, axis=axis), size)]


RARE_ANY = [summed_norms, product, normalized, choose, choose, sign, cumulative, einsum]
RARE_PICTURE = [norm_pool, norm_of_places, left_product]
RARE_SEQUENCE = [norm_of_places, left_product]
