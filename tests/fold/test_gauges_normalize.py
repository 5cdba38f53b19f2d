"""γ and β of a LayerNorm, InstanceNorm or GroupNorm take a BatchNorm after it, and none before it."""

import numpy as np
import pytest

from file_kit import folded, model, node, norm, norm_arrays, weights
from gauge_kit import Net, assert_gone, assert_stays

C, PICTURE, SEQUENCE = 4, ("rows", 4, 6, 5), ("rows", 7, 4)


def layer(net: Net, x: str, *shape: int, bias: bool = True, **attributes: object) -> str:
    parameters = [net.factor(*shape), *([net.weight(*shape)] if bias else [])]
    return net.op("LayerNormalization", x, *parameters, **attributes)


def instance(net: Net, x: str, channels: int = C) -> str:
    return net.op("InstanceNormalization", x, net.factor(channels), net.weight(channels))


def groups(net: Net, x: str, size: int) -> str:
    return net.op("GroupNormalization", x, net.factor(size), net.weight(size), num_groups=2)


def end(net: Net, x: str) -> str:
    return net.op("Sigmoid", net.norm(x, C))


@pytest.mark.parametrize("opset", [7, 11, 18, 22])
@pytest.mark.parametrize("shape", [("rows", C, 9), PICTURE, ("rows", C, 3, 3, 3)])
def test_an_instancenorm_takes_it(opset: int, shape: tuple[int | str, ...]):
    net = Net(0, opset)
    result = assert_gone(net, shape, end(net, instance(net, "x")))
    assert result.ops == ["InstanceNormalization", "Sigmoid"]
    assert result.how() == "into InstanceNormalization 'instancenormalization0' before it"


@pytest.mark.parametrize("bias", [True, False])
def test_a_layernorm_of_features_takes_it(bias: bool):
    net = Net(1)
    assert (
        assert_gone(net, ("rows", C), end(net, layer(net, "x", C, bias=bias, axis=1))).ops[0][:5] == "Layer"
    )


def test_a_layernorm_of_features_last_takes_it_through_a_transpose():
    net = Net(2)
    x = net.op("Transpose", layer(net, "x", C, bias=False), perm=[0, 2, 1])
    assert_gone(net, SEQUENCE, end(net, x))


@pytest.mark.parametrize("axis", [1, -3])
def test_a_layernorm_over_channels_and_places_takes_it(axis: int):
    net = Net(3)
    assert_gone(net, PICTURE, end(net, layer(net, "x", 4, 6, 5, axis=axis)))


def test_a_groupnorm_of_opset_21_has_a_scale_for_each_channel():
    net = Net(4, 21)
    assert_gone(net, PICTURE, end(net, groups(net, "x", C)))


def test_a_groupnorm_of_opset_18_has_a_scale_for_each_group():
    """Its channels share a gauge: a BatchNorm goes where it is alike within each group, and only there."""
    for is_alike in (True, False):
        net = Net(5)
        y = end(net, groups(net, "x", 2))
        if is_alike:
            for name in ("gamma", "beta", "mean", "var"):
                net.arrays[f"bn0.{name}"] = net.arrays[f"bn0.{name}"].reshape(2, 2)[:, 0].repeat(2)
            assert_gone(net, PICTURE, y)
        else:
            assert_stays(net, PICTURE, y, because="γ cannot be absorbed")


@pytest.mark.parametrize("kind", ["instance", "layer", "group"])
def test_what_it_reads_takes_nothing(kind: str):
    """Nor does it let a BatchNorm through: its ε would be added to another variance."""
    net = Net(6, 21)
    x = net.norm(net.op("Sigmoid", "x"), C)
    y = {
        "instance": lambda: instance(net, x),
        "layer": lambda: layer(net, x, 4, 6, 5, axis=1),
        "group": lambda: groups(net, x, C),
    }[kind]()
    assert_stays(net, PICTURE, net.conv(y, C, 2), because="cannot absorb a scale or shift")


def test_a_conv_after_it_takes_the_rest():
    """Two BatchNorms, with a Relu between: the second goes into the Conv, the first into γ and β."""
    net = Net(7)
    x = net.op("Relu", net.norm(instance(net, "x"), C))
    assert_gone(net, PICTURE, net.conv(net.norm(x, C), C, 2))


def test_a_layernorm_over_places_alone_keeps_it():
    net = Net(8)
    assert_stays(net, PICTURE, end(net, layer(net, "x", 6, 5, axis=2)), because="cannot absorb a scale or")


def test_computed_parameters_keep_it():
    """A style that the net computes, as an InstanceNorm of one row may have."""
    net = Net(9)
    style = net.squeeze(net.op("GlobalAveragePool", net.conv("x", C, C)), 0, 2, 3)
    y = net.op("InstanceNormalization", "x", style, net.weight(C))
    assert_stays(net, (1, *PICTURE[1:]), end(net, y), because="cannot absorb a scale or shift")


def test_another_reader_keeps_it():
    net = Net(10)
    y = instance(net, "x")
    assert_stays(net, PICTURE, end(net, y), net.op("Sigmoid", y), because="cannot be absorbed")


def test_parameters_that_two_share_are_copied():
    net = Net(11)
    scale, shift = net.factor(C), net.weight(C)
    one = net.op("InstanceNormalization", "x", scale, shift)
    other = net.op("InstanceNormalization", net.op("Sigmoid", "x"), scale, shift)
    assert_gone(net, PICTURE, end(net, one), net.op("Sigmoid", other))


def test_without_a_shift_of_its_own_the_scale_goes_where_the_next_op_takes_the_shift():
    net = Net(12, 23)
    y = net.op("RMSNormalization", net.gemm("x", 5, C), net.factor(C))
    assert_gone(net, ("rows", 5), net.gemm(net.norm(y, C), C, 2))
    net = Net(12, 23)
    y = net.op("RMSNormalization", net.gemm("x", 5, C), net.factor(C))
    assert_stays(net, ("rows", 5), end(net, y), because="its shift cannot be absorbed")


def test_mean_and_deviation_stay_what_they_are():
    """The further outputs of a LayerNormalization."""
    net = Net(13)
    parameters = [net.factor(C), net.weight(C)]
    y, mean, deviation = net.ops("LayerNormalization", 3, "x", *parameters)
    assert_gone(net, ("rows", C), end(net, y), net.op("Sigmoid", mean), net.op("Sigmoid", deviation))


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_files_are_proved(tmp_path, opset, dtype):
    """Each kind in a row; ONNX infers no shape after a GroupNormalization."""
    size = C if opset >= 21 else 2
    arrays = {"w": weights(C, 3, 3, 3, dtype=dtype), **norm_arrays(C, dtype=dtype)}
    arrays |= {"g": np.linspace(0.5, 2, C, dtype=dtype), "b": np.linspace(-1, 1, C, dtype=dtype)}
    arrays |= {f"{name}{size}": arrays[name][:size] for name in "gb"}
    nodes = [
        node("Conv", "x w", "h"),
        node("GroupNormalization", f"h g{size} b{size}", "k", num_groups=2),
        node("Relu", "k", "r"),
        node("InstanceNormalization", "r g b", "i"),
        norm("i", "n"),
        node("Transpose", "n", "t", perm=[0, 2, 3, 1]),
        node("Sigmoid", "t", "s"),
        node("LayerNormalization", "s g b", "l"),
        node("Transpose", "l", "u", perm=[0, 3, 1, 2]),
        norm("u", "m"),
        node("Sigmoid", "m", "y"),
    ]
    proto = model(nodes, arrays, {"x": ["N", 3, 8, 8]}, opset=opset)
    if dtype == np.float16:
        for one in (*proto.graph.input, *proto.graph.output):
            one.type.tensor_type.elem_type = 10
    account, ops = folded(proto, tmp_path)
    assert account["folded"] == 2, account
    assert "BatchNormalization" not in ops
