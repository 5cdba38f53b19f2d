"""Nets by name: rebuilt from plain settings, traceable, and with something for the fold to do."""

import json
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from training.data import DataFacts
from training.nets import NETS, NetError, build_net, initialize, settings_for

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
    with pytest.raises(NetError, match=r"unknown net 'cn', known: cnn; did you mean cnn\?"):
        build_net("cn", {})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"chanels": (8,)}, "chanels"),
        ({"channels": (0, 64)}, "at least 1"),
        ({"kernels": (5,)}, "one for each"),
        ({"kernels": (4, 4)}, "odd"),
        ({"num_classes": 1}, "num_classes"),
        ({"input_shape": (1, 3, 28)}, "leave nothing"),
    ],
)
def test_settings_that_make_no_net_are_refused(change, told):
    with pytest.raises(NetError, match=told):
        build_net("cnn", settings_for("cnn", FACTS) | change)
