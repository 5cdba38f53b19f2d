"""Random graphs of 10 to 40 ops that any CNN or transformer block could hold, with BatchNorms sprinkled in.

In: a seed.  Out: a `Net`, the shape of its input, its outputs.
"""

from collections.abc import Callable

import numpy as np

from fuzz_grower import Grower, Size, Tensor
from gauge_fuzz_rare import RARE_ANY, RARE_PICTURE, RARE_SEQUENCE
from gauge_kit import Net

NORMS = 0.3
OUTPUTS = 0.03
HEADS = 0.7


def conv(g: Grower, x: str, size: Size) -> list[Tensor]:
    channels, *places = size
    kernel = int(g.pick(1, 1, 2, 3))
    if min(places) < kernel + 1:
        kernel = 1
    group = int(g.pick(1, 1, 2, channels)) if channels % 2 == 0 else 1
    outputs = channels if group == channels else int(g.pick(2, 4, 6, channels)) // group * group or group
    pads = [int(g.pick(0, 1)) if kernel > 1 else 0 for _ in range(4)]
    strides = [int(g.pick(1, 1, 2)) for _ in places]
    weight = g.weight(outputs, channels // group, kernel, kernel)
    bias = [g.weight(outputs)] if g.chance(0.6) else []
    y = g.net.op("Conv", x, weight, *bias, group=group, pads=pads, strides=strides)
    room = np.add(places, np.reshape(pads, (2, 2)).sum(0)) - kernel
    new = (room // strides + 1).tolist()
    return [(y, (outputs, *new))]


def conv_transpose(g: Grower, x: str, size: Size) -> list[Tensor]:
    channels, *places = size
    kernel = int(g.pick(1, 2))
    group = int(g.pick(1, 2)) if channels % 2 == 0 else 1
    if min(places) > 8:
        return same("Identity")(g, x, size)
    weight = g.weight(channels, 2, kernel, kernel)
    y = g.net.op("ConvTranspose", x, weight, g.weight(2 * group), group=group, strides=[kernel, kernel])
    return [(y, (2 * group, *(place * kernel for place in places)))]


def same(kind: str, **attributes: object) -> "Op":
    return lambda g, x, size: [(g.net.op(kind, x, **attributes), size)]


def prelu(g: Grower, x: str, size: Size) -> list[Tensor]:
    return [(g.net.op("PRelu", x, g.weight(size[0], *[1] * (len(size) - 1))), size)]


def by_constant(g: Grower, x: str, size: Size) -> list[Tensor]:
    kind = str(g.pick("Add", "Sub", "Mul", "Div"))
    shapes = ((), (size[0], *[1] * (len(size) - 1)), (1, *size), size[-1:])
    operands = (x, g.net.factor(*g.pick(*shapes)))
    return [(g.net.op(kind, *(operands[::-1] if kind != "Div" and g.chance(0.3) else operands)), size)]


def decomposed(g: Grower, x: str, size: Size) -> list[Tensor]:
    """A BatchNorm in up to five ops; on the last axis between two Transposes, as for channels last."""
    shape = (size[0], *[1] * (len(size) - 1))
    is_last = len(size) > 1 and g.chance(0.4)
    if is_last:
        shape = (size[0],)
        x = g.net.op("Transpose", x, perm=[0, *range(2, len(size) + 1), 1])
    for kind in ("Sub", "Div", "Mul", "Add"):
        if kind == "Mul" or g.chance(0.6):
            scale = 1e-4 if g.chance(0.02) else 1.0
            operands = [x, g.net.constant(g.net.random.uniform(0.5, 2, shape) * scale)]
            x = g.net.op(kind, *(operands if kind in ("Sub", "Div") or g.chance(0.5) else reversed(operands)))
    if is_last:
        x = g.net.op("Transpose", x, perm=[0, len(size), *range(1, len(size))])
    return [(x, size)]


def pool(g: Grower, x: str, size: Size) -> list[Tensor]:
    channels, *places = size
    if min(places) < 3:
        return [(g.net.op(str(g.pick("GlobalAveragePool", "GlobalMaxPool")), x), (channels, 1, 1))]
    pad, stride, kind = int(g.pick(0, 1)), int(g.pick(1, 2)), str(g.pick("MaxPool", "AveragePool"))
    count = {"count_include_pad": int(g.pick(0, 1))} if kind == "AveragePool" else {}
    window = {"kernel_shape": [3, 3], "strides": [stride] * 2, "pads": [pad] * 4, **count}
    return [(g.net.op(kind, x, **window), (channels, *((n + 2 * pad - 3) // stride + 1 for n in places)))]


def join(g: Grower, x: str, size: Size) -> list[Tensor]:
    others = [name for name, other in g.tensors if other == size]
    other = str(g.pick(*others))
    return [(g.net.op(str(g.pick("Add", "Add", "Sub")), *(g.pick((x, other), (other, x)))), size)]


def concat(g: Grower, x: str, size: Size) -> list[Tensor]:
    axis = int(g.pick(0, 0, len(size) - 1))
    fits = [each for each in g.tensors if len(each[1]) == len(size)]
    fits = [each for each in fits if each[1][:axis] + each[1][axis + 1 :] == size[:axis] + size[axis + 1 :]]
    other, found = fits[int(g.random.integers(len(fits)))]
    new = (*size[:axis], size[axis] + found[axis], *size[axis + 1 :])
    return [(g.net.op("Concat", x, other, axis=axis + 1), new)] if new[axis] <= 24 else [(x, size)]


def split(g: Grower, x: str, size: Size) -> list[Tensor]:
    if size[0] < 2:
        return same("Identity")(g, x, size)
    cut = int(g.random.integers(1, size[0]))
    sizes = (cut, size[0] - cut)
    return [(y, (part, *size[1:])) for y, part in zip(g.net.split(x, sizes), sizes, strict=True)]


def places(rank: int) -> "Op":
    """All places of a channel on the last of `rank` axes."""

    def op(g: Grower, x: str, size: Size) -> list[Tensor]:
        new = (size[0], *[1] * (rank - 2), int(np.prod(size[1:])))
        return [(g.net.reshape(x, 0, *new), new)]

    return op


def slice_(g: Grower, x: str, size: Size) -> list[Tensor]:
    axis = int(g.random.integers(len(size)))
    if size[axis] < 2:
        return same("Identity")(g, x, size)
    new = [*size]
    new[axis] -= 1
    return [(g.net.slice(x, [1], [2**31], [axis + 1]), tuple(new))]


def gather(g: Grower, x: str, size: Size) -> list[Tensor]:
    indices = g.random.integers(-size[0], size[0], size=int(g.random.integers(1, 7)))
    return [(g.net.op("Gather", x, g.net.constant(indices), axis=1), (indices.size, *size[1:]))]


def shuffle(g: Grower, x: str, size: Size) -> list[Tensor]:
    if size[0] % 2:
        return same("Identity")(g, x, size)
    order = [0, 2, 1, *range(3, len(size) + 2)]
    y = g.net.op("Transpose", g.net.reshape(x, 0, 2, size[0] // 2, *size[1:]), perm=order)
    return [(g.net.reshape(y, 0, *size), size)]


def gate(g: Grower, x: str, size: Size) -> list[Tensor]:
    channels = size[0]
    squeezed = g.net.op("GlobalAveragePool", x)
    squeezed = g.net.op("Conv", squeezed, g.weight(channels, channels, 1, 1), g.weight(channels))
    gates = g.net.op("Sigmoid", squeezed)
    return [(g.net.op("Mul", *(g.pick((x, gates), (gates, x)))), size)]


def resize(g: Grower, x: str, size: Size) -> list[Tensor]:
    if max(size[1:]) > 7:
        return same("Identity")(g, x, size)
    return [(g.net.resize(x, [1, 1, 2, 1]), (size[0], 2 * size[1], size[2]))]


def pad(g: Grower, x: str, size: Size) -> list[Tensor]:
    mode = str(g.pick("constant", "edge", "reflect"))
    if min(size[1:]) < 2 or max(size[1:]) > 14:
        return same("Identity")(g, x, size)
    return [(g.net.pad(x, [0, 0, 1, 0, 0, 0, 0, 1], mode), (size[0], size[1] + 1, size[2] + 1))]


def reduce(g: Grower, x: str, size: Size) -> list[Tensor]:
    kind = str(g.pick("ReduceMean", "ReduceSum", "ReduceMax"))
    axes = list(range(2, len(size) + 1))
    return [(g.net.reduce(kind, x, axes, keepdims=0), size[:1])]


def to_features(g: Grower, x: str, size: Size) -> list[Tensor]:
    if np.prod(size) > 60:
        return reduce(g, x, size)
    return [(g.net.op("Flatten", x), (int(np.prod(size)),))]


def features_last(g: Grower, x: str, size: Size) -> list[Tensor]:
    outputs = int(g.pick(3, 4, size[0]))
    y = g.net.op("MatMul", g.net.op("Transpose", x, perm=[0, 2, 1]), g.weight(size[0], outputs))
    y = g.net.op("Add", y, g.weight(outputs)) if g.chance(0.3) else y
    return [(g.net.op("Transpose", y, perm=[0, 2, 1]), (outputs, size[1]))]


def matmul(g: Grower, x: str, size: Size) -> list[Tensor]:
    return [(g.net.op("MatMul", x, g.weight(size[-1], 3)), (*size[:-1], 3))]


def gemm(g: Grower, x: str, size: Size) -> list[Tensor]:
    outputs = int(g.pick(3, 4, size[0]))
    return [(g.net.op("Gemm", x, g.weight(size[0], outputs), g.weight(outputs)), (outputs,))]


def sum_(g: Grower, x: str, size: Size) -> list[Tensor]:
    others = [name for name, other in g.tensors if other == size]
    return [(g.net.op("Sum", x, *(str(g.pick(*others)) for _ in range(int(g.pick(1, 2))))), size)]


def tile(g: Grower, x: str, size: Size) -> list[Tensor]:
    axis = int(g.random.integers(len(size)))
    if size[axis] > 6:
        return same("Identity")(g, x, size)
    repeats = [1] * (len(size) + 1)
    repeats[axis + 1] = 2
    new = tuple(2 * n if index == axis else n for index, n in enumerate(size))
    return [(g.net.op("Tile", x, g.net.constant(np.array(repeats))), new)]


def depth(g: Grower, x: str, size: Size) -> list[Tensor]:
    channels, height, width = size
    if channels % 4 == 0:
        y = g.net.op("DepthToSpace", x, blocksize=2)
        return [(y, (channels // 4, 2 * height, 2 * width))]
    if channels <= 4 and height % 2 == width % 2 == 0:
        y = g.net.op("SpaceToDepth", x, blocksize=2)
        return [(y, (4 * channels, height // 2, width // 2))]
    return same("Identity")(g, x, size)


def to_picture(g: Grower, x: str, size: Size) -> list[Tensor]:
    """Features become places of channels."""
    if size[0] % 4:
        return gemm(g, x, size)
    new = (size[0] // 4, 2, 2)
    return [(g.net.reshape(x, 0, *new), new)]


Op = Callable[[Grower, str, Size], list[Tensor]]
ANY: list[Op] = [same("Relu")] * 3
ANY += [same("LeakyRelu", alpha=0.2), same("Identity"), same("Dropout"), same("Sigmoid"), prelu]
ANY += [by_constant] * 2 + [join] * 3 + [concat, split, slice_, gather, shuffle, sum_, tile]
PICTURE = [conv] * 5 + [pool] * 2 + [conv_transpose, gate, resize, pad, depth]
PICTURE += [places(2), to_features, reduce]
ANY += RARE_ANY
OPS = {
    3: [*ANY, *PICTURE, *RARE_PICTURE],
    2: [*ANY, features_last, features_last, matmul, places(3), reduce, *RARE_SEQUENCE],
    1: [*ANY, gemm, gemm, matmul, places(3), to_picture],
}


def grow(seed: int, *, trained: bool = False) -> tuple[Net, list[int | str], list[str]]:
    """`trained`: with statistics as trained nets have them, and BatchNorms written as Mul and Add."""
    grower = Grower(seed, trained)
    grow_ops(grower, int(grower.random.integers(10, 41)))
    return grower.net, ["rows", *grower.shape], outputs_of(grower)


def grow_ops(g: Grower, num_ops: int) -> None:
    while len(g.net.nodes) < num_ops:
        recent = g.tensors[-4:] if g.chance(0.8) else g.tensors
        x, size = recent[int(g.random.integers(len(recent)))]
        if g.chance(NORMS):
            g.add([g.norm(x, size)])
        else:
            more = [decomposed] * 4 if g.trained else []
            g.add(g.pick(*OPS[len(size)], *more)(g, x, size))


def outputs_of(g: Grower) -> list[str]:
    """All that nothing reads, most of it after a last linear op, and a few more."""
    for x, size in g.tensors[1:]:
        if x not in g.read and g.chance(HEADS):
            g.add({3: conv, 2: features_last, 1: gemm}[len(size)](g, x, size))
    g.read |= {name for node in g.net.nodes for name in node.input}
    names = [name for name, _ in g.tensors[1:] if name not in g.read or g.chance(OUTPUTS)]
    return list(dict.fromkeys(names))
