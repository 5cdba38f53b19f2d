"""What ops that take, write or crop places pass on of a BatchNorm before them or after them."""

import numpy as np
import pytest

from file_kit import folded as folded_file
from file_kit import model, node, norm, norm_arrays, weights
from gauge_kit import Net, assert_gone, assert_stays
from gauge_op_cases import Build, C, Case, Passed, three_tests


def take(kind: str, *constants: object, channels: int = C, rank: int = 4, **attributes: object) -> Build:
    """x and constants."""
    return lambda net, x: (net.op(kind, x, *map(net.constant, constants), **attributes), channels, rank)


def crop(*shape: int, axes: tuple[int, ...], channels: int = C) -> Build:
    return take("CenterCropPad", np.array(shape), axes=axes, channels=channels)


def elements(net: Net, x: str) -> Passed:
    """The first row of each channel goes to another row, a different one for each column."""
    first = net.slice(net.conv("x", C, C), [0], [1], [2])
    rows = net.random.integers(0, 6, (2, C, 1, 5))
    return net.op("ScatterElements", x, net.constant(rows), first, axis=2), C, 4


def slices(net: Net, x: str) -> Passed:
    """x, rows first; a whole row of it is another one's."""
    turned = net.op("Transpose", x, perm=[2, 0, 1, 3])
    other = net.op("Transpose", net.conv("x", C, C), perm=[2, 0, 1, 3])
    row = net.slice(other, [0], [1], [0])
    written = net.op("ScatterND", turned, net.constant(np.array([[3]])), row)
    return net.op("Transpose", written, perm=[1, 2, 0, 3]), C, 4


def nd(net: Net, x: str) -> Passed:
    """Two rows of the picture, then channels where they were."""
    turned = net.op("Transpose", x, perm=[2, 0, 1, 3])
    taken = net.op("GatherND", turned, net.constant(np.array([[4], [0]])))
    return net.op("Transpose", taken, perm=[1, 2, 0, 3]), C, 4


def largest(net: Net, x: str) -> Passed:
    return net.ops("TopK", 2, x, net.constant(np.array([3])), axis=-1)[0], C, 4


def like(net: Net, x: str) -> Passed:
    return net.op("CastLike", x, net.weight(1)), C, 4


REGIONS = (np.array([[0.0, 0, 3, 4], [1, 1, 9, 9]]), np.array([0, 0]))
SOME = np.array([True, False, True, True, False])
CASES = {
    "crop": Case(kind="CenterCropPad", build=crop(3, 2, axes=(2, -1)), first=18),
    "crop channels": Case(kind="CenterCropPad", build=crop(3, axes=(1,), channels=3), first=18),
    "pad": Case(kind="CenterCropPad", build=crop(3, 8, axes=(2, 3)), shift=False, first=18),
    "compress": Case(kind="Compress", build=take("Compress", SOME, axis=3), first=9),
    "compress channels": Case(kind="Compress", build=take("Compress", SOME[:4], axis=1, channels=3), first=9),
    "cast like": Case(kind="CastLike", build=like, first=15),
    "gather nd": Case(kind="GatherND", build=nd, first=11),
    "top k": Case(kind="TopK", build=largest, positive=True, first=11),
    "scatter elements": Case(kind="ScatterElements", build=elements, first=11),
    "scatter slices": Case(kind="ScatterND", build=slices, first=11),
    "regions": Case(
        kind="RoiAlign",
        build=take("RoiAlign", *REGIONS, output_height=2, output_width=2),
        shift=False,
        first=10,
    ),
    "largest of regions": Case(
        kind="RoiAlign", build=take("RoiAlign", *REGIONS, mode="max"), shift=False, positive=True, first=10
    ),
}

test_goes, test_stays_with_negative_gamma, test_stays_with_a_shift = three_tests(CASES, examples=3)


def test_slices_over_zeros_pass_a_scale_alone():
    """Sigmoid → BatchNorm → two rows of a picture of zeros → Conv."""

    def build(*, shift: bool) -> tuple[Net, str]:
        net = Net(0, 13)
        x = net.norm(net.op("Sigmoid", net.op("Transpose", "x", perm=[2, 1, 0, 3])), C, shift=shift)
        x = net.op("Transpose", x, perm=[2, 1, 0, 3])
        rows = net.op("Transpose", x, perm=[2, 0, 1, 3])
        zeros, places = net.constant(np.zeros((9, 2, C, 5))), net.constant(np.array([[7], [1], [0], [4]]))
        spread = net.op("ScatterND", zeros, places, rows)
        return net, net.conv(net.op("Transpose", spread, perm=[1, 2, 0, 3]), C, 3)

    net, y = build(shift=False)
    assert_gone(net, (2, C, 4, 5), y)
    net, y = build(shift=True)
    assert_stays(net, (2, C, 4, 5), y, because="the zeros around ScatterND 'scatternd5' allows no shift")


def test_a_sum_over_numbers_is_not_understood():
    net = Net(0)
    x = net.norm(net.op("Sigmoid", "x"), C)
    x = net.op("ScatterND", x, net.constant(np.array([[0]])), net.slice(x, [1], [2], [0]), reduction="add")
    assert_stays(net, (2, C, 4, 5), net.conv(x, C, 3), because="ScatterND")


def test_channels_that_are_written_take_no_gauge():
    """A channel that is written over another one would need its scale."""
    net = Net(0)
    x = net.norm(net.op("Sigmoid", "x"), C)
    indices = net.constant(np.zeros((2, 1, 4, 5), dtype=np.int64))
    x = net.op("ScatterElements", x, indices, net.op("Sigmoid", net.slice("x", [0], [1], [1])), axis=1)
    assert_stays(net, (2, C, 4, 5), net.conv(x, C, 3), because="ScatterElements")


def test_the_largest_among_channels_take_no_gauge():
    """Channels with a scale of their own each would be chosen otherwise."""
    net = Net(0)
    x = net.norm(net.op("Sigmoid", "x"), C, positive=True)
    x = net.ops("TopK", 2, x, net.constant(np.array([C])), axis=1)[0]
    assert_stays(net, (2, C, 4, 5), net.conv(x, C, 3), because="TopK")


def channels_by_index(net: Net, x: str) -> str:
    turned = net.op("Transpose", x, perm=[1, 0, 2, 3])
    taken = net.op("GatherND", turned, net.constant(np.array([[2], [0], [1], [3]])))
    return net.op("Transpose", taken, perm=[1, 0, 2, 3])


def channels_over_channels(net: Net, x: str) -> str:
    turned = net.op("Transpose", x, perm=[1, 0, 2, 3])
    row = net.slice(turned, [0], [1], [0])
    written = net.op("ScatterND", turned, net.constant(np.array([[2]])), row)
    return net.op("Transpose", written, perm=[1, 0, 2, 3])


def channels_turned_elements(net: Net, x: str) -> str:
    """All channels are written, each by the next one: the parts have the same gauge, at other places."""
    places = np.broadcast_to(np.roll(np.arange(C), 1).reshape(1, C, 1, 1), (2, C, 4, 5))
    return net.op("ScatterElements", x, net.constant(places), x, axis=1)


def channels_turned_slices(net: Net, x: str) -> str:
    turned = net.op("Transpose", x, perm=[1, 0, 2, 3])
    places = net.constant(np.roll(np.arange(C), 1).reshape(C, 1))
    return net.op("Transpose", net.op("ScatterND", turned, places, turned), perm=[1, 0, 2, 3])


def all_in_one(net: Net, x: str) -> str:
    """Without an axis, numbers of every channel are in one row."""
    kept = net.op("Compress", x, net.constant(np.ones(2 * C * 4 * 5, dtype=bool)))
    return net.op("Reshape", kept, net.constant(np.array([2, C, 4, 5])))


def more_channels(net: Net, x: str) -> str:
    return net.slice(net.op("CenterCropPad", x, net.constant(np.array([C + 2])), axes=[1]), [0], [C], [1])


@pytest.mark.parametrize(
    ("kind", "build"),
    [
        ("GatherND", channels_by_index),
        ("ScatterND", channels_over_channels),
        ("ScatterND", channels_turned_slices),
        ("ScatterElements", channels_turned_elements),
        ("Compress", all_in_one),
        ("CenterCropPad", more_channels),
    ],
)
def test_channels_that_change_places_take_no_gauge(kind, build):
    net = Net(0, 18)
    x = net.norm(net.op("Sigmoid", "x"), C, positive=True, shift=False)
    assert_stays(net, (2, C, 4, 5), net.conv(build(net, x), C, 3), because=kind)


def test_channels_turned_round_take_no_gauge(tmp_path):
    """Each row of a batch may be turned by another length, so a place has no channel of its own."""
    nodes = [node("Sigmoid", "x", "q"), norm("q", "n"), node("Transpose", "n", "t", perm=[1, 0, 2])]
    nodes += [node("ReverseSequence", "t lengths", "r", time_axis=0, batch_axis=1)]
    nodes += [node("Transpose", "r", "u", perm=[1, 0, 2]), node("Conv", "u w", "y")]
    arrays = {"w": weights(5, 4, 2), "lengths": np.array([4, 2]), **norm_arrays(4)}
    account, _ = folded_file(model(nodes, arrays, {"x": [2, 4, 8]}), tmp_path)
    assert account["declined"] == 1
    assert "ReverseSequence" in account["sites"][0]["reason"]


def test_a_sequence_turned_round_lets_it_through(tmp_path):
    """(time, rows, channels): as before an RNN that reads backwards."""
    nodes = [
        node("MatMul", "x w0", "h"),
        node("Sigmoid", "h", "q"),
        node("Transpose", "q", "t", perm=[1, 2, 0]),
    ]
    nodes += [norm("t", "n"), node("Transpose", "n", "u", perm=[2, 0, 1])]
    nodes += [
        node("ReverseSequence", "u lengths", "r", time_axis=0, batch_axis=1),
        node("MatMul", "r w", "y"),
    ]
    arrays = {"w0": weights(3, 4), "w": weights(4, 5), "lengths": np.array([7, 4]), **norm_arrays(4)}
    account, _ = folded_file(model(nodes, arrays, {"x": [7, 2, 3]}), tmp_path)
    assert account["declined"] == 0


def test_the_largest_of_regions_of_a_caffe_net_lets_a_scale_through(tmp_path):
    arrays = {"w": weights(5, 4, 2, 2), "regions": np.array([[0, 0, 0, 3, 3], [1, 2, 2, 5, 5]], np.float32)}
    unshifted = {"bn.mean": np.zeros(4, np.float32), "bn.beta": np.zeros(4, np.float32)}
    nodes = [
        node("Sigmoid", "x", "q"),
        norm("q", "n"),
        node("MaxRoiPool", "n regions", "r", pooled_shape=[2, 2]),
    ]
    nodes.append(node("Conv", "r w", "y"))
    proto = model(nodes, {**norm_arrays(4), **unshifted, **arrays}, {"x": [2, 4, 8, 8]})
    assert folded_file(proto, tmp_path)[0]["folded"] == 1


def test_numbers_written_over_others_before_opset_11_let_it_through(tmp_path):
    rows = np.random.default_rng(0).integers(0, 8, (2, 4, 1, 8))
    arrays = {"v": weights(4, 4, 8, 1), "rows": rows, "w": weights(5, 4, 2, 2), **norm_arrays(4)}
    nodes = [node("Sigmoid", "x", "q"), norm("q", "n"), node("Conv", "x v", "u")]
    nodes += [node("Scatter", "n rows u", "s", axis=2), node("Conv", "s w", "y")]
    account, _ = folded_file(model(nodes, arrays, {"x": [2, 4, 8, 8]}, opset=9), tmp_path)
    assert account["folded"] == 1
