"""What ops that choose, turn, add up along an axis or measure a norm pass on of a BatchNorm beside them."""

import numpy as np

from gauge_kit import Net
from gauge_op_cases import Build, C, Case, Passed, three_tests


def beside(kind: str, *, count: int = 1, swap: bool = False) -> Build:
    """Other branches, each a Conv of the graph's input."""

    def build(net: Net, x: str) -> Passed:
        parts = [x, *(net.conv("x", C, C) for _ in range(count))]
        return net.op(kind, *(parts[::-1] if swap else parts)), C, 4

    return build


def with_number(kind: str, *shape: int, swap: bool = False) -> Build:
    def build(net: Net, x: str) -> Passed:
        parts = [x, net.weight(*shape)]
        return net.op(kind, *(parts[::-1] if swap else parts)), C, 4

    return build


def where(*shape: int) -> Build:
    """A mask of the places, and a constant elsewhere; another branch if there is no shape."""

    def build(net: Net, x: str) -> Passed:
        other = net.weight(*shape) if shape else net.conv("x", C, C)
        mask = net.constant(net.random.normal(size=(1, 6, 5)) > 0)
        return net.op("Where", mask, x, other), C, 4

    return build


def plain(kind: str, **attributes: object) -> Build:
    return lambda net, x: (net.op(kind, x, **attributes), C, 4)


def reduce(kind: str) -> Build:
    return lambda net, x: (net.reduce(kind, x, (2, 3)), C, 4)


def cumulative(net: Net, x: str) -> Passed:
    return net.op("CumSum", x, net.constant(np.array(-1))), C, 4


def sampled(net: Net, x: str) -> Passed:
    """At places of a grid, some of them outside."""
    grid = net.constant(net.random.uniform(-1.2, 1.2, (2, 4, 3, 2)))
    return net.op("GridSample", x, grid), C, 4


def gathered(net: Net, x: str) -> Passed:
    places = net.constant(net.random.integers(0, 6, (2, C, 3, 5)))
    sized = net.slice(x, (0,), (2,), (0,))
    return net.op("GatherElements", net.reshape(sized, 2, C, 6, 5), places, axis=2), C, 4


def gathered_where_largest(net: Net, x: str) -> Passed:
    """The column whose sum over the graph's input is the largest."""
    column = net.op("ArgMax", net.op("ReduceSum", "x", net.constant(np.array([0, 1, 2])), keepdims=0), axis=0)
    return net.op("Gather", x, column, axis=3), C, 4


def gathered_by_table(net: Net, x: str) -> Passed:
    """Channels by a table of two axes."""
    taken = net.op("Gather", x, net.constant(np.array([[2, 0], [1, 3]])), axis=1)
    return net.reshape(taken, 0, C, 6, 5), C, 4


CASES = {
    "neg": Case(kind="Neg", build=plain("Neg")),
    "abs": Case(kind="Abs", build=plain("Abs"), positive=True, shift=False),
    "max of branches": Case(kind="Max", build=beside("Max", count=2), positive=True, first=8),
    "max with one": Case(kind="Max", build=beside("Max", swap=True), positive=True, first=8),
    "max with a number": Case(kind="Max", build=with_number("Max"), positive=True, first=8),
    "max with channels": Case(kind="Max", build=with_number("Max", C, 1, 1), positive=True, first=8),
    "min of branches": Case(kind="Min", build=beside("Min"), positive=True, first=8),
    "min with a map": Case(kind="Min", build=with_number("Min", 6, 5, swap=True), positive=True, first=8),
    "where of a number": Case(kind="Where", build=where(1), first=9),
    "where of channels": Case(kind="Where", build=where(C, 1, 1), first=9),
    "where of branches": Case(kind="Where", build=where(), first=9),
    "reduce min": Case(kind="ReduceMin", build=reduce("ReduceMin"), positive=True),
    "reduce l1": Case(kind="ReduceL1", build=reduce("ReduceL1"), positive=True, shift=False),
    "reduce l2": Case(kind="ReduceL2", build=reduce("ReduceL2"), positive=True, shift=False),
    "norm": Case(
        kind="LpPool", build=plain("LpPool", kernel_shape=[2, 2], p=2), positive=True, shift=False, first=11
    ),
    "cumulative": Case(kind="CumSum", build=cumulative, shift=False, first=11),
    "grid with zeros": Case(kind="GridSample", build=sampled, shift=False, first=16),
    "gather elements": Case(kind="GatherElements", build=gathered, first=13),
    "gather computed places": Case(kind="Gather", build=gathered_where_largest, first=13),
    "gather a table": Case(kind="Gather", build=gathered_by_table),
}

test_goes, test_stays_with_negative_gamma, test_stays_with_a_shift = three_tests(CASES, examples=4)
