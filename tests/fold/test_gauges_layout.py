"""Ops that only move numbers: a BatchNorm before them or after them goes, at any opset, γ of both signs."""

import numpy as np
from test_gauges_choices import CASES as CHOOSING
from test_gauges_contract import CASES as CONTRACTING
from test_gauges_linear import CASES as LINEAR
from test_gauges_places import CASES as PLACES
from test_gauges_recurrent import GATES as RECURRENT
from test_gauges_rules import CASES as PASSING

from export.fold.gauges.rules import NORMALIZING, RULES
from gauge_kit import Net
from gauge_op_cases import Build, C, Case, Passed, three_tests


def concat(axis: int) -> Build:
    def build(net: Net, x: str) -> Passed:
        other = net.conv("x", C, 3 if axis == 1 else C)
        return net.op("Concat", other, x, axis=axis), 7 if axis == 1 else C, 4

    return build


def split(net: Net, x: str) -> Passed:
    parts = net.split(x, [1, 3])
    return net.op("Concat", parts[1], net.conv(parts[0], 1, 2), axis=1), 5, 4


def split_over_space(net: Net, x: str) -> Passed:
    parts = net.split(x, [2, 4], axis=-2)
    return net.op("Concat", *reversed(parts), axis=2), C, 4


def sliced(channels: int, *parts: tuple[int, ...]) -> Build:
    return lambda net, x: (net.op("Mul", net.slice(x, *parts), net.factor()), channels, 4)


def gather(axis: int, *indices: int) -> Build:
    channels = len(indices) if axis == 1 else C
    return lambda net, x: (net.op("Gather", x, net.constant(np.array(indices)), axis=axis), channels, 4)


def gather_one_place(net: Net, x: str) -> Passed:
    return net.op("Gather", x, net.constant(np.array(-1)), axis=3), C, 3


def there_and_back(net: Net, x: str) -> Passed:
    return net.op("Transpose", net.op("Transpose", x, perm=[0, 2, 3, 1]), perm=[0, 3, 2, 1]), C, 4


def backwards(net: Net, x: str) -> Passed:
    """No perm: the axes in reverse order, twice."""
    return net.op("Transpose", net.op("Transpose", x)), C, 4


def reshape(*shape: int) -> Build:
    return lambda net, x: (net.reshape(x, *shape), C, len(shape))


def shuffle(net: Net, x: str) -> Passed:
    grouped = net.op("Transpose", net.reshape(x, 0, 2, 2, 6, 5), perm=[0, 2, 1, 3, 4])
    return net.reshape(grouped, 0, C, 6, 5), C, 4


def flat_pool(net: Net, x: str) -> Passed:
    return net.op("Flatten", net.op("GlobalAveragePool", x), axis=1), C, 2


def squeezed(net: Net, x: str) -> Passed:
    return net.squeeze(net.op("GlobalAveragePool", x), 2, 3), C, 2


def unsqueezed(net: Net, x: str) -> Passed:
    return net.unsqueeze(x, 2), C, 5


def dropped(net: Net, x: str) -> Passed:
    return net.op("Dropout", x), C, 4


def same(net: Net, x: str) -> Passed:
    return net.op("Identity", x), C, 4


def summed(net: Net, x: str) -> Passed:
    return net.op("Sum", net.conv("x", C, C), x, net.conv("x", C, C)), C, 4


def averaged(net: Net, x: str) -> Passed:
    return net.op("Mean", net.conv("x", C, C), x, net.conv("x", C, C)), C, 4


def expanded(net: Net, x: str) -> Passed:
    return net.op("Expand", net.op("GlobalAveragePool", x), net.constant(np.array([1, C, 2, 3]))), C, 4


def tiled(net: Net, x: str) -> Passed:
    return net.op("Tile", x, net.constant(np.array([1, 1, 2, 3]))), C, 4


def to_depth_and_back(net: Net, x: str) -> Passed:
    deep = net.op("SpaceToDepth", net.slice(x, (0,), (4,), (3,)), blocksize=2)
    return net.op("DepthToSpace", deep, blocksize=2), C, 4


CASES = {
    "sum": Case(kind="Sum", build=summed, first=8),
    "mean of several": Case(kind="Mean", build=averaged, first=8),
    "expand": Case(kind="Expand", build=expanded, first=8),
    "tile": Case(kind="Tile", build=tiled),
    "depth": Case(kind="SpaceToDepth DepthToSpace", build=to_depth_and_back),
    "concat channels": Case(kind="Concat", build=concat(1)),
    "concat places": Case(kind="Concat", build=concat(3)),
    "split channels": Case(kind="Split", build=split),
    "split places": Case(kind="Split", build=split_over_space),
    "slice channels": Case(kind="Slice", build=sliced(2, (1,), (3,), (1,))),
    "slice places": Case(kind="Slice", build=sliced(C, (1, -4), (5, 2**31), (2, 3))),
    "slice steps": Case(kind="Slice", build=sliced(2, (0, 1), (9, -1), (1, -2), (2, 1)), first=10),
    "slice to the start": Case(kind="Slice", build=sliced(3, (-2,), (-(2**31),), (-3,), (-1,)), first=10),
    "slice backwards": Case(kind="Slice", build=sliced(2, (9,), (0,), (1,), (-2,)), first=10),
    "gather channels": Case(kind="Gather", build=gather(1, 2, 0, -1)),
    "gather places": Case(kind="Gather", build=gather(2, 4, 4, 0)),
    "gather one place": Case(kind="Gather", build=gather_one_place),
    "transpose": Case(kind="Transpose", build=there_and_back),
    "transpose all": Case(kind="Transpose", build=backwards),
    "reshape places": Case(kind="Reshape", build=reshape(0, C, -1)),
    "reshape keeps rows": Case(kind="Reshape", build=reshape(0, 0, -1, 6)),
    "reshape more axes": Case(kind="Reshape", build=reshape(0, C, 3, 2, 5)),
    "shuffle": Case(kind="Reshape", build=shuffle),
    "flatten pool": Case(kind="Flatten", build=flat_pool),
    "squeeze": Case(kind="Squeeze", build=squeezed),
    "unsqueeze": Case(kind="Unsqueeze", build=unsqueezed),
    "dropout": Case(kind="Dropout", build=dropped),
    "identity": Case(kind="Identity", build=same),
}

test_goes, *_ = three_tests(CASES, examples=4)


def test_every_rule_has_a_case():
    covered = {
        kind
        for case in ({**CASES, **PASSING, **LINEAR, **CHOOSING, **CONTRACTING, **PLACES}).values()
        for kind in case.kind.split()
    }
    covered |= {*RECURRENT, *NORMALIZING, "DeformConv"}  # test_gauges_normalize.py, test_gauges_deform.py
    # No Cast is exact in float64, and the reference has not all of the others right: test_any_ops.py,
    # test_gauges_places.py.
    without = {
        "Shape",
        "Size",
        "Cast",
        "MaxUnpool",
        "GlobalLpPool",
        "ReverseSequence",
        "MaxRoiPool",
        "Scatter",
    }
    assert covered | {"BatchNormalization"} >= set(RULES) - without
