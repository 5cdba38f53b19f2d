"""What arithmetic, activations, pooling, Resize and Pad pass on of a BatchNorm before them or after them."""

from gauge_kit import Net
from gauge_op_cases import WAYS, Build, C, Case, Passed, three_tests


def plain(kind: str, **attributes: object) -> Build:
    return lambda net, x: (net.op(kind, x, **attributes), C, 4)


def by(kind: str, *shape: int) -> Build:
    return lambda net, x: (net.op(kind, x, net.factor(*shape)), C, 4)


def from_constant(kind: str, *shape: int) -> Build:
    return lambda net, x: (net.op(kind, net.factor(*shape), x), C, 4)


def beside(kind: str, *, swap: bool = False, small: bool = False) -> Build:
    """Two branches; the other one is a Conv of the graph's input, perhaps one place for each channel."""

    def build(net: Net, x: str) -> Passed:
        other = net.conv("x", C, C)
        other = net.op("GlobalAveragePool", other) if small else other
        return net.op(kind, *((other, x) if swap else (x, other))), C, 4

    return build


def prelu(*slope: int) -> Build:
    return lambda net, x: (net.op("PRelu", x, net.weight(*slope)), C, 4)


def gate(net: Net, x: str) -> Passed:
    """Squeeze and excite."""
    squeezed = net.conv(net.op("GlobalAveragePool", "x"), C, C)
    return net.op("Mul", net.op("Sigmoid", squeezed), x), C, 4


def gate_by_shape(net: Net, x: str) -> Passed:
    return net.op("Mul", x, net.conv(net.op("GlobalAveragePool", "x"), C, C)), C, 4


def pool(kind: str, *, ceil: bool = False, **attributes: object) -> Build:
    window = {"kernel_shape": [3, 2], "strides": [2, 1], **attributes}
    return plain(kind, **window, **({"ceil_mode": 1} if ceil else {}))


def reduce(kind: str, *axes: int, keepdims: int = 1) -> Build:
    return lambda net, x: (net.reduce(kind, x, axes, keepdims=keepdims), C, 4 if keepdims else 4 - len(axes))


def resize(mode: str, *scales: float) -> Build:
    return lambda net, x: (net.resize(x, [1, 1, *scales], mode), C, 4)


def pad(mode: str) -> Build:
    return lambda net, x: (net.pad(x, [0, 0, 1, 0, 0, 0, 2, 1], mode), C, 4)


PADS = [1, 0, 1, 1]
CASES = {
    "add channel": Case(kind="Add", build=by("Add", C, 1, 1)),
    "add scalar": Case(kind="Add", build=by("Add")),
    "add map": Case(kind="Add", build=by("Add", 1, C, 6, 5)),
    "add column": Case(kind="Add", build=by("Add", 5)),
    "add branch": Case(kind="Add", build=beside("Add")),
    "add to branch": Case(kind="Add", build=beside("Add", swap=True)),
    "add small branch": Case(kind="Add", build=beside("Add", small=True)),
    "sub channel": Case(kind="Sub", build=by("Sub", C, 1, 1)),
    "sub from channel": Case(kind="Sub", build=from_constant("Sub", C, 1, 1)),
    "sub from scalar": Case(kind="Sub", build=from_constant("Sub")),
    "sub from map": Case(kind="Sub", build=from_constant("Sub", 1, C, 6, 5)),
    "sub from column": Case(kind="Sub", build=from_constant("Sub", 5)),
    "neg": Case(kind="Neg", build=plain("Neg")),
    "sub branch": Case(kind="Sub", build=beside("Sub")),
    "sub from branch": Case(kind="Sub", build=beside("Sub", swap=True)),
    "sub from small branch": Case(kind="Sub", build=beside("Sub", swap=True, small=True)),
    "mul channel": Case(kind="Mul", build=by("Mul", C, 1, 1)),
    "mul row of channels": Case(kind="Mul", build=by("Mul", 1, C, 1, 1)),
    "mul scalar": Case(kind="Mul", build=by("Mul")),
    "mul from scalar": Case(kind="Mul", build=from_constant("Mul")),
    "mul one number": Case(kind="Mul", build=by("Mul", 1)),
    "mul map": Case(kind="Mul", build=by("Mul", 6, 5), shift=False, adds=WAYS),
    "mul gate": Case(kind="Mul", build=gate, shift=False, adds=["backward"]),
    "mul gate by shape": Case(kind="Mul", build=gate_by_shape, shift=False, adds=["backward"]),
    "mul branch": Case(kind="Mul", build=beside("Mul"), shift=False, adds=["backward"]),
    "div channel": Case(kind="Div", build=by("Div", C, 1, 1)),
    "div scalar": Case(kind="Div", build=by("Div")),
    "div map": Case(kind="Div", build=by("Div", C, 6, 1), shift=False, adds=WAYS),
    "relu": Case(kind="Relu", build=plain("Relu"), positive=True, shift=False),
    "leaky relu": Case(kind="LeakyRelu", build=plain("LeakyRelu", alpha=-0.3), positive=True, shift=False),
    "prelu": Case(kind="PRelu", build=prelu(1), positive=True, shift=False),
    "prelu channel": Case(kind="PRelu", build=prelu(C, 1, 1), positive=True, shift=False),
    "max": Case(kind="MaxPool", build=pool("MaxPool", pads=PADS), positive=True),
    "max ceil": Case(kind="MaxPool", build=pool("MaxPool", ceil=True), positive=True, first=10),
    "global max": Case(kind="GlobalMaxPool", build=plain("GlobalMaxPool"), positive=True),
    "mean": Case(kind="AveragePool", build=pool("AveragePool", pads=PADS)),
    "mean same": Case(kind="AveragePool", build=pool("AveragePool", auto_pad="SAME_UPPER")),
    "mean with zeros": Case(
        kind="AveragePool", build=pool("AveragePool", pads=PADS, count_include_pad=1), shift=False
    ),
    "mean without zeros": Case(kind="AveragePool", build=pool("AveragePool", count_include_pad=1)),
    "mean ceil": Case(kind="AveragePool", build=pool("AveragePool", ceil=True), first=10),
    "mean ceil with zeros": Case(
        kind="AveragePool", build=pool("AveragePool", ceil=True, count_include_pad=1), first=10, shift=False
    ),
    "global mean": Case(kind="GlobalAveragePool", build=plain("GlobalAveragePool")),
    "reduce mean": Case(kind="ReduceMean", build=reduce("ReduceMean", 2, 3)),
    "reduce mean drop": Case(kind="ReduceMean", build=reduce("ReduceMean", -1, 2, keepdims=0)),
    "reduce max": Case(kind="ReduceMax", build=reduce("ReduceMax", 3), positive=True),
    "reduce max drop": Case(kind="ReduceMax", build=reduce("ReduceMax", 2, 3, keepdims=0), positive=True),
    "reduce sum": Case(kind="ReduceSum", build=reduce("ReduceSum", 2)),
    "reduce sum drop": Case(kind="ReduceSum", build=reduce("ReduceSum", -2, -1, keepdims=0)),
    "nearest": Case(kind="Upsample Resize", build=resize("nearest", 2, 3)),
    "linear": Case(kind="Resize", build=resize("linear", 1.5, 2), first=11),
    "cubic": Case(kind="Resize", build=resize("cubic", 2, 0.5), first=11),
    "pad zeros": Case(kind="Pad", build=pad("constant"), shift=False),
    "pad edge": Case(kind="Pad", build=pad("edge")),
    "pad reflect": Case(kind="Pad", build=pad("reflect")),
}

test_goes, test_stays_with_negative_gamma, test_stays_with_a_shift = three_tests(CASES, examples=4)
