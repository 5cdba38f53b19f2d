"""Nets by name: rebuilt from plain settings, traceable, and with something for the fold to do."""

import json
import math
import re
from itertools import pairwise

import pytest
import torch
from torch import nn

from training.data import DataFacts
from training.nets import (
    NETS,
    NetError,
    build_net,
    initialize,
    new_net,
    read_net_settings,
    settings_for,
)

FACTS = DataFacts(
    name="digits", labels=list("0123456789"), input_shape=(1, 28, 28), mode="L", mean=[0.13], std=[0.31]
)
COLOUR = DataFacts(
    name="colour", labels=["a", "b", "c"], input_shape=(3, 20, 17), mode="RGB", mean=[0.5] * 3, std=[0.2] * 3
)


@pytest.mark.parametrize("facts", [FACTS, COLOUR], ids=["digits", "colour, odd sizes"])
@pytest.mark.parametrize("name", sorted(NETS))
def test_a_net_answers_with_one_logit_for_each_class(name, facts):
    net = build_net(name, settings_for(name, facts)).eval()
    logits = net(torch.zeros(3, *facts.input_shape))
    assert logits.shape == (3, len(facts.labels))
    assert logits.dtype == torch.float32


def test_the_cnn_gives_the_fold_convs_and_a_linear():
    net = build_net("cnn", settings_for("cnn", FACTS))
    layers = [module for module in net.modules() if not list(module.children())]
    before_bn = [
        type(before).__name__
        for before, after in pairwise(layers)
        if isinstance(after, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    assert before_bn == ["Conv2d", "Conv2d", "Linear"]
    assert [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)] == [32, 64]


def test_settings_are_plain_enough_for_a_manifest():
    settings = settings_for("cnn", FACTS)
    assert json.loads(json.dumps(settings))["channels"] == [32, 64]


def test_torch_export_follows_the_net_with_any_number_of_rows():
    net = build_net("cnn", settings_for("cnn", FACTS)).eval()
    rows = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    traced = torch.export.export(net, (rows,), dynamic_shapes=({0: torch.export.Dim("rows")},)).module()
    five = torch.cat([rows, rows[:2]])
    assert torch.equal(traced(five), net(five))


def test_weights_come_from_the_generator_alone_with_the_variance_of_he():
    def weights(seed: int) -> dict[str, torch.Tensor]:
        net = build_net("cnn", settings_for("cnn", FACTS))
        initialize(net, torch.Generator().manual_seed(seed))
        return net.state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["blocks.0.weight"], other["blocks.0.weight"])
    wide = first["head.0.weight"]  # 128 × 3136
    expected = math.sqrt(2 / wide.shape[1])
    # The spread of a standard deviation measured on n normal numbers is 1 / sqrt(2 n): five of those.
    assert abs(wide.std().item() / expected - 1) < 5 / math.sqrt(2 * wide.numel())
    assert not first["head.3.bias"].any()


def test_an_unknown_net_is_told_with_the_nearest_name():
    with pytest.raises(NetError, match=r"unknown net 'cn', known: cnn, densenet, .*; did you mean cnn\?"):
        build_net("cn", {})


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("cnn", {"chanels": (8,)}, "chanels"),
        ("cnn", {"channels": (0, 64)}, "at least 1"),
        ("cnn", {"kernels": (5,)}, "one for each"),
        ("cnn", {"kernels": (4, 4)}, "odd"),
        ("cnn", {"num_classes": 1}, "num_classes"),
        ("cnn", {"input_shape": (1, 3, 28)}, "2 poolings leave nothing of"),
        ("mlp", {"hidden": (0,)}, "at least 1"),
        ("keras-cnn", {"input_shape": (1, 9, 28)}, r"kernels \(3, 3\) and their poolings leave nothing"),
        ("keras-cnn", {"kernels": (3,)}, "channels and kernels must have an entry for each stage"),
        ("vgg", {"input_shape": (1, 28, 15)}, "4 poolings leave nothing of"),
        ("vgg", {"convs": (1, 1)}, "channels and convs must have"),
        ("vgg", {"width": 3}, "width"),
        ("nin", {"kernels": (5, 4, 3)}, "kernels must be odd"),
        ("nin", {"input_shape": (1, 3, 3)}, "2 poolings leave nothing of"),
        ("resnet", {"depth": 21}, r"depth must be 6n \+ 2 \(8, 14, 20, …\), got 21"),
        ("resnet", {"depth": 2}, "6n"),
        ("resnet", {"width": 0}, "at least 1"),
        ("resnet", {"width": 10**9}, "resnet cannot be built with depth=20, width=1000000000"),
        ("preact-resnet", {"depth": 18}, "6n"),
        ("mobilenet", {"repeats": (1, 2)}, "channels and repeats and strides must have"),
        ("mobilenet", {"expansion": 0}, "at least 1"),
        ("densenet", {"compression": 1.5}, "compression must lie above 0 and be at most 1, got 1.5"),
        ("densenet", {"compression": math.nan}, "compression must"),
        ("densenet", {"layers": (6,) * 6}, "5 poolings leave nothing of"),
        ("repvgg", {"repeats": (1,)}, "channels and repeats must have"),
    ],
)
def test_settings_that_make_no_net_are_refused(name, change, told):
    with pytest.raises(NetError, match=told):
        build_net(name, settings_for(name, FACTS) | change)


def layers_of(name: str, **words: str) -> list[nn.Module]:
    """The layers without children, in the order in which they were built."""
    net = build_net(name, settings_for(name, FACTS, read_net_settings(name, words)))
    return [module for module in net.modules() if not list(module.children())]


def test_the_mlp_is_784_256_10():
    linears = [layer for layer in layers_of("mlp") if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linears] == [(784, 256), (256, 10)]
    assert [type(layer) for layer in layers_of("mlp")][1:4] == [nn.Linear, nn.BatchNorm1d, nn.ReLU]


def test_the_keras_cnn_normalises_first_and_after_the_activation():
    kinds = [type(layer).__name__ for layer in layers_of("keras-cnn")]
    assert kinds[:5] == ["BatchNorm2d", "Conv2d", "ReLU", "BatchNorm2d", "MaxPool2d"]
    assert kinds[-4:] == ["Linear", "ReLU", "BatchNorm1d", "Linear"]


@pytest.mark.parametrize("name", ["resnet", "preact-resnet"])
@pytest.mark.parametrize("depth", [8, 20, 32])
def test_a_resnet_is_as_deep_as_it_says(name, depth):
    """Counted on the longest way: 1×1 Convs are shortcuts."""
    layers = layers_of(name, depth=str(depth), width="2")
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert len(convs) + len(linears) == depth
    assert {conv.out_channels for conv in convs} == {2, 4, 8}


def test_a_mobilenet_filters_each_channel_alone():
    depthwise = [layer for layer in layers_of("mobilenet") if getattr(layer, "groups", 1) > 1]
    assert len(depthwise) == 11
    assert all(layer.groups == layer.in_channels == layer.out_channels for layer in depthwise)


def test_a_densenet_reads_all_that_came_before():
    layers = layers_of("densenet", growth="3", layers="3,2")
    widths = [layer.num_features for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    # 6 channels and 3 more each layer, 12 inside a layer; half of 15 after the first block, and 3 more twice
    assert widths == [6, 12, 9, 12, 12, 12, 15, 7, 12, 10, 12, 13]


def test_a_repvgg_block_has_a_norm_on_each_branch():
    layers = layers_of("repvgg", channels="4,6", repeats="2,1")
    kinds = [type(layer).__name__ for layer in layers]
    # 1 → 4: no identity;  4 → 4: identity;  4 → 6 with stride 2: none
    assert kinds.count("BatchNorm2d") == 2 + 3 + 2
    assert kinds.count("Conv2d") == 3 * 2


@pytest.mark.parametrize(
    ("name", "block", "path", "expected"),
    [
        ("resnet", "blocks.1", "body", torch.relu),
        ("preact-resnet", "blocks.1", "body", lambda x: x),
        ("mobilenet", "layers.5", "body", lambda x: x),
        ("densenet", "blocks.1", "body", lambda x: torch.cat([x, torch.zeros(len(x), 12, 9, 9)], dim=1)),
    ],
)
def test_a_block_hands_its_input_on_beside_what_it_adds(name, block, path, expected):
    """With its body silenced, the shortcut is all that is left."""
    net = build_net(name, settings_for(name, FACTS))
    module = net.get_submodule(block)
    with torch.no_grad():
        for parameter in module.get_submodule(path).parameters():
            parameter.zero_()
    first = next(parameter for parameter in module.parameters() if parameter.ndim in (1, 4))
    channels = first.shape[1] if first.ndim == 4 else len(first)
    x = torch.randn(2, channels, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(module.eval()(x), expected(x))


def test_a_repvgg_block_is_the_sum_of_its_branches():
    block = build_net("repvgg", settings_for("repvgg", FACTS)).blocks[1].eval()
    x = torch.randn(2, 48, 5, 5, generator=torch.Generator().manual_seed(0))
    total = block.wide(x) + block.narrow(x) + block.identity(x)
    assert torch.equal(block(x), torch.relu(total))


def test_a_preact_resnet_projects_what_is_active():
    block = build_net("preact-resnet", settings_for("preact-resnet", FACTS)).blocks[3].eval()
    with torch.no_grad():
        for parameter in block.body.parameters():
            parameter.zero_()
    x = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), block.project(torch.relu(block.norm(x))))


@pytest.mark.parametrize("name", sorted(NETS))
def test_no_conv_or_linear_right_before_a_batchnorm_has_a_bias(name):
    for before, after in pairwise(layers_of(name)):
        if isinstance(after, nn.BatchNorm1d | nn.BatchNorm2d) and hasattr(before, "bias"):
            assert before.bias is None or isinstance(before, nn.BatchNorm2d)


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_net_learns_something_from_every_weight(name):
    """A gradient reaches each parameter: nothing was built and forgotten."""
    net = new_net(name, settings_for(name, FACTS), torch.Generator().manual_seed(0))
    rows = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    torch.nn.functional.cross_entropy(net.train()(rows), torch.arange(4)).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


def test_words_become_settings_of_the_right_type():
    assert read_net_settings("densenet", {"growth": "8", "layers": "2,3", "compression": "0.25"}) == {
        "growth": 8,
        "layers": (2, 3),
        "compression": 0.25,
    }


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        (
            "resnet",
            {"dept": "20"},
            "depth, dropout, eps, gamma, width; did you mean depth?",
        ),
        (
            "resnet",
            {"num_classes": "5"},
            "unknown setting of net resnet 'num_classes', known: activation, bn,",
        ),
        ("resnet", {"depth": "deep"}, "setting depth of net resnet must be a whole number, got 'deep'"),
        ("vgg", {"convs": "1,x"}, "must be a whole number, or several with commas between, got '1,x'"),
        (
            "densenet",
            {"compression": "half"},
            "compression of net densenet must be a number, got 'half'",
        ),
        ("rasnet", {}, "did you mean resnet?"),
    ],
)
def test_wrong_words_are_told_before_there_is_any_data(name, words, told):
    with pytest.raises(NetError, match=re.escape(told)):
        read_net_settings(name, words)
