"""Attention and its parts as graphs: features, scores, a Softmax, and a BatchNorm over features."""

from gauge_kit import Net

PLACES, FEATURES = 5, 6
SHAPE = (2, PLACES, 4)


def features(net: Net, x: str = "x", *, inputs: int = 4, count: int = FEATURES) -> str:
    """(2, 5, 6), of any scale and shift."""
    return net.op("Add", net.op("MatMul", x, net.weight(inputs, count)), net.weight(count))


def turned(net: Net, x: str) -> str:
    return net.op("Transpose", x, perm=[0, 2, 1])


def scores(net: Net, kind: str = "Softmax", **attributes: object) -> str:
    """(2, 5, 5), each place's of each place; their scale is fixed."""
    return net.op(kind, net.op("MatMul", "x", turned(net, "x")), **attributes)


def softmax(net: Net, axis: int = -1) -> str:
    return scores(net, axis=axis)


def normed(net: Net, x: str, channels: int = FEATURES, **options: bool) -> str:
    """A BatchNorm over the last of three axes."""
    return turned(net, net.norm(turned(net, x), channels, **options))


def before(net: Net, weights: str) -> str:
    """features → BatchNorm → product → linear, after a Sigmoid: the BatchNorm can only go on."""
    values = normed(net, net.op("Sigmoid", features(net)))
    return net.op("Sigmoid", features(net, net.op("MatMul", weights, values), inputs=FEATURES, count=3))
