"""A padding that no window reads lets a shift into the Conv after it; one that is read does not."""

from itertools import product

import pytest

from export.compute.operators.windows import extents
from file_kit import assert_all_fold, folded, model, node, norm, norm_arrays, weights
from gauge_kit import Net, Result
from gauge_kit import folded as folded_net

C = 4


def before_conv(size: int | str, kernel: int, seed: int = 0, **attributes: object) -> Result:
    """Sigmoid → BatchNorm → Conv on size × 6 places; the second axis never pads."""
    net = Net(seed)
    attributes = {name: [value, 1] if isinstance(value, int) else value for name, value in attributes.items()}
    y = net.norm(net.op("Sigmoid", "x"), C)
    return folded_net(net, ("rows", C, size, 6), net.conv(y, C, 3, kernel, 1, **attributes))


@pytest.mark.parametrize("side", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(6, 2, 2), (6, 3, 3), (7, 3, 4), (9, 1, 2), (8, 2, 3)]
)
def test_same_that_adds_nothing_takes_the_shift(size: int, kernel: int, stride: int, side: str):
    result = before_conv(size, kernel, auto_pad=side, strides=stride)
    assert result.gone() == {"bn0"}
    assert result.ops == ["Sigmoid", "Conv"]


@pytest.mark.parametrize("side", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation"), [(7, 2, 2, 1), (6, 3, 1, 1), (8, 3, 3, 1), (6, 2, 2, 2)]
)
def test_same_that_adds_zeros_does_not(size: int, kernel: int, stride: int, dilation: int, side: str):
    result = before_conv(size, kernel, auto_pad=side, strides=stride, dilations=dilation)
    assert "the zero padding of Conv" in result.how()


def test_where_the_size_is_open_same_may_add_zeros():
    """Even with windows that fill a picture of an even size."""
    result = before_conv("height", 2, auto_pad="SAME_UPPER", strides=2)
    assert "the zero padding of Conv" in result.how()


@pytest.mark.parametrize("size", range(5, 9))
def test_pads_at_the_end_count_where_a_window_reads_them(size: int):
    """Of all kernels, strides, dilations and pads: just where the taps say so.  Answers are compared too."""
    for seed, (kernel, stride, dilation, begin, end) in enumerate(
        product((1, 2, 3), (1, 2, 3), (1, 2), (0, 1), (0, 1, 2))
    ):
        (extent,) = extents([kernel], [dilation])
        count = (begin + size + end - extent) // stride + 1
        taps = {window * stride + tap * dilation for window in range(count) for tap in range(kernel)}
        reads_zeros = any(not begin <= place < begin + size for place in taps)
        pads, steps = [begin, 0, end, 0], {"strides": stride, "dilations": dilation}
        result = before_conv(size, kernel, seed, pads=pads, **steps)
        assert (result.gone() == set()) == reads_zeros, (kernel, stride, dilation, begin, end, result.how())


def test_files_are_proved(tmp_path):
    """TensorFlow's patches of 2 by 2, and a kernel of 3 by 3 with a stride of 2 on 6 places."""
    arrays = {"w0": weights(4, 3, 3, 3), "w": weights(5, 4, 2, 2), "v": weights(5, 4, 3, 3), **norm_arrays(4)}
    head = [node("Conv", "x w0", "h"), node("Sigmoid", "h", "q"), norm("q", "n")]
    shape = {"x": ["N", 3, 8, 8]}
    patches = node("Conv", "n w", "y", auto_pad="SAME_UPPER", strides=[2, 2])
    assert_all_fold(model([*head, patches], arrays, shape), tmp_path, ["Conv", "Sigmoid", "Conv"])
    same = node("Conv", "n v", "y", auto_pad="SAME_UPPER", strides=[2, 2])
    assert folded(model([*head, same], arrays, shape), tmp_path)[0]["declined"] == 1


def test_a_dead_channel_is_silenced_where_no_zeros_are_read():
    """γ = 0 makes a constant of a channel, which a Conv that reads no zeros adds to its bias."""
    for size, gone in ((6, {"bn0"}), (7, set())):
        net = Net(3)
        y = net.norm(net.op("Sigmoid", "x"), C, positive=True, shift=False)
        net.arrays["bn0.gamma"][1], net.arrays["bn0.beta"][1] = 0.0, 0.7
        y = net.conv(y, C, 3, 2, 2, auto_pad="SAME_UPPER", strides=[2, 2])
        assert folded_net(net, ("rows", C, size, size), y).gone() == gone
