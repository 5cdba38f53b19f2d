"""A BatchNorm that stays says which flag would fold it, and the flag does."""

import numpy as np
import pytest

from file_kit import assert_all_fold, folded, model, node, norm, norm_arrays, weights

PADDED = [norm("x", "n"), node("Conv", "n w", "h", pads=[1] * 4), node("Relu", "h", "y")]


def padded(*size: int | str):
    return model(PADDED, {"w": weights(4, 3, 3, 3), **norm_arrays(3)}, {"x": ["N", 3, *size]})


def between_relus(pads: int = 0, sign: int = -1):
    """Relu – BatchNorm – Relu – Conv; γ < 0 in one channel, so that no scale passes a Relu."""
    nodes = [node("Conv", "x w", "h"), node("Relu", "h", "r"), norm("r", "n"), node("Relu", "n", "q")]
    nodes += [node("Conv", "q w2", "y", pads=[pads] * 4)]
    arrays = {"w": weights(4, 3, 3, 3), "w2": weights(4, 4, 3, 3), **norm_arrays(4)}
    arrays["bn.gamma"][1] *= sign
    return model(nodes, arrays, {"x": ["N", 3, 8, 8]})


@pytest.mark.parametrize(
    ("proto", "flags"),
    [
        (padded(8, 8), ["--pad"]),
        (between_relus(), ["--threshold"]),
        (between_relus(sign=1), ["--threshold"]),
        (between_relus(pads=1), ["--threshold"]),
    ],
)
def test_the_flags_that_a_reason_names_fold_it(tmp_path, proto, flags):
    (site,) = folded(proto, tmp_path)[0]["sites"]
    assert site["reason"].endswith(f"; {' '.join(flags)} would fold it"), site["reason"]
    assert folded(proto, tmp_path, *flags)[0]["declined"] == 0


def test_open_sizes_are_named_where_they_are_the_obstacle(tmp_path):
    (site,) = folded(padded("H", "W"), tmp_path, "--pad")[0]["sites"]
    assert "--input-shape fixes height and width" in site["reason"]
    assert folded(padded("H", "W"), tmp_path, "--pad", "--input-shape", "3,8,8")[0]["declined"] == 0


def test_no_flag_is_named_where_none_helps(tmp_path):
    proto = model([norm("x", "n"), node("Sigmoid", "n", "y")], norm_arrays(3), {"x": ["N", 3, 8, 8]})
    (site,) = folded(proto, tmp_path)[0]["sites"]
    assert "would fold it" not in site["reason"]


def test_what_folds_names_no_flag(tmp_path):
    proto = model(
        [node("Conv", "x w", "h"), norm("h", "y")],
        {"w": weights(4, 3, 3, 3), **norm_arrays(4)},
        {"x": ["N", 3, 8, 8]},
    )
    assert_all_fold(proto, tmp_path)


def test_between_ops_that_quantize_what_is_computed(tmp_path):
    """The file was quantized before it was folded: no rewrite of it is exact, another order of the two is."""
    scale = {"scale": np.float32(0.1), "point": np.uint8(128)}
    nodes = [
        node("Conv", "x w", "h"),
        *[node("QuantizeLinear", "h scale point", "q"), node("DequantizeLinear", "q scale point", "d")],
        *[norm("d", "n"), node("Sigmoid", "n", "y")],
    ]
    proto = model(nodes, {"w": weights(4, 3, 3, 3), **scale, **norm_arrays(4)}, {"x": ["N", 3, 8, 8]})
    (site,) = folded(proto, tmp_path)[0]["sites"]
    assert "(fold the float file, and quantize what it becomes)" in site["reason"]
