"""What becomes of each net's BatchNorms: those that stay are exactly those that algebra keeps.

`y = s·x + t` goes where the tensors around it can be stored as `a·(v + b)`: a Conv takes any gauge on its
output, an unpadded one any on its input too, a Relu or a MaxPool needs a > 0, a Relu b = 0, an Add ties a.
"""

import functools
from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch

from export.compute.reference import reference
from export.fold.gauges.system import Price
from export.fold.stages import fold
from export.graph.edit import batchnorms
from export.graph.prepare import prepare
from export.sources.trace import trace
from folds_kit import exact
from training.batchnorm.statistics import find_batchnorms
from training.nets import NETS, new_net, read_net_settings, settings_for
from training_kit import FACTS, SMALLEST, lively

EXACT = 1e-12
SIGN = "the sign of γ cannot be absorbed"
SHIFT = "its shift cannot be absorbed"

# BatchNorms in the net, and which of them stay, by the sign of γ; everything else goes.
#   keras-cnn      a BN between Relu and MaxPool has nowhere to go: both need a > 0.  With γ > 0 it passes the
#                  MaxPool into the unpadded Conv or the Linear after it.
#   preact-resnet  the BNs that read one stage's stream (3, 2 and 2 of them here) need the sign of its one a
#                  to be that of every γ: one of them goes.  With γ > 0 each Relu's b = 0 says what b is on
#                  the stream after each sum, and the Conv before the sum makes it so.
#   densenet       several BNs read one tensor through Concats, each needs b = t/s of its own on it for the
#                  Relu after it: one goes, whatever the signs.
COUNTS = {
    "mlp": 1,
    "cnn": 3,
    "small-cnn": 3,
    "keras-cnn": 5,
    "vgg": 4,
    "nin": 6,
    "resnet": 9,
    "preact-resnet": 13,
    "mobilenet": 10,
    "densenet": 10,
    "repvgg": 7,
}
STREAM = ("blocks.1.norm", "blocks.2.norm", "blocks.4.norm", "norm")
BEHIND_CONCAT = ("blocks.2.body.0", "blocks.3", "blocks.8.body.0", "norm")
LEFT = {
    "negative": {
        "keras-cnn": dict.fromkeys(("blocks.3", "blocks.7"), SIGN),
        "preact-resnet": dict.fromkeys(STREAM, SIGN),
        "densenet": dict.fromkeys(BEHIND_CONCAT, SIGN),
    },
    "positive": {"densenet": dict.fromkeys(BEHIND_CONCAT, SHIFT)},
}


@functools.cache
def traced(name: str) -> ir.Model:
    """With γ > 0."""
    settings = settings_for(name, FACTS, read_net_settings(name, SMALLEST[name]))
    net = lively(new_net(name, settings, torch.Generator().manual_seed(1)))
    assert len(find_batchnorms(net)) == COUNTS[name]
    return prepare(trace(net, FACTS.input_shape))


def unfolded(name: str, gammas: str) -> ir.Model:
    """With γ > 0, or below it in one channel of each BatchNorm, another channel from one to the next."""
    model = traced(name).clone()
    for index, node in enumerate(batchnorms(model) if gammas == "negative" else ()):
        gamma = node.inputs[1].const_value.numpy().copy()
        gamma[index % len(gamma)] *= -1
        node.inputs[1].const_value = ir.tensor(gamma, name=node.inputs[1].name)
    return model


@pytest.mark.parametrize("gammas", ["positive", "negative"])
@pytest.mark.parametrize("name", sorted(NETS))
def test_what_stays_is_what_algebra_keeps(name, gammas):
    before = exact(unfolded(name, gammas))
    after, sites = fold(before)
    left = {site.name: site for site in sites if site.status != "folded"}
    expected = LEFT[gammas].get(name, {})
    assert len(sites) == COUNTS[name]
    assert left.keys() == expected.keys()
    for name, site in left.items():
        assert site.status == "declined"
        assert site.reason.startswith(expected[name]), site.reason
    assert len(list(batchnorms(after))) == len(expected)

    rows = np.random.default_rng(0).normal(size=(3, *FACTS.input_shape))
    (truth,) = reference(before).run(None, {"input": rows})
    (answer,) = reference(after).run(None, {"input": rows})
    assert np.abs(answer - truth).max() < EXACT * np.abs(truth).max()


def test_no_op_is_added_to_a_preact_resnet():
    before = unfolded("preact-resnet", "positive")
    after, _ = fold(before)
    ops_before, ops_after = (Counter(node.op_type for node in model.graph) for model in (before, after))
    assert not ops_after - ops_before
    assert ops_before["BatchNormalization"] == 13
    assert ops_after["BatchNormalization"] == 0


def test_at_a_price_all_of_a_densenet_goes():
    _, sites = fold(unfolded("densenet", "negative"), frozenset({Price.BIAS, Price.THRESHOLD}))
    assert all(site.status == "folded" for site in sites)
