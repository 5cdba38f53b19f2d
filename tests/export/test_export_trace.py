"""The traced graph holds the BatchNorms that ran, and no other way of tracing passes."""

import numpy as np
import pytest
import torch
from torch import nn

from export.compute.runtime import load
from export.errors import TraceError
from export.graph.edit import batchnorms
from export.graph.file import serialize
from export.graph.prepare import ROWS
from export.sources.net import of_net
from export.sources.trace import trace
from export.sources.watched import check_batchnorms, owners_of, watch_batchnorms
from nets import everything, lively, no_statistics


class Functional(nn.Module):
    """BatchNorm called as a function on buffers of its own, twice on the same ones."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("var", torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.batch_norm(x, self.mean, self.var)
        return torch.batch_norm(x, None, None, self.mean, self.var, False, 0.1, 1e-5, False)


class Subclassed(nn.BatchNorm2d):
    """A BatchNorm with its activation inside, as timm's: `type(m) is nn.BatchNorm2d` misses it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(super().forward(x))


def test_rows_are_symbolic_and_every_batchnorm_is_there():
    model = trace(everything(), (1, 8, 8))
    assert [str(value.shape[0]) for value in (*model.graph.inputs, *model.graph.outputs)] == [ROWS, ROWS]
    assert [node.name for node in batchnorms(model)] == [
        "conv_bn",
        "depthwise_bn",
        "up_bn",
        "hidden_bn",
        "head_bn",
    ]


def test_the_exporters_own_folding_would_be_caught():
    """The trap: with its optimisation on, the exporter folds by itself and nothing is left to compare."""
    net = everything()
    ran = watch_batchnorms(net, torch.zeros(2, 1, 8, 8)).ran
    assert len(ran) == 5
    model = trace(net, (1, 8, 8))
    first = next(batchnorms(model))
    first.outputs[0].replace_all_uses_with(first.inputs[0])
    model.graph.remove(first, safe=True)
    with pytest.raises(TraceError, match=r"5 BatchNorms ran.* holds 4: missing \['conv_bn'\]"):
        check_batchnorms(model, ran, owners_of(net))


def test_functional_calls_are_seen():
    ran = watch_batchnorms(Functional(), torch.zeros(2, 2, 4)).ran
    assert len(ran) == 2
    assert len(list(batchnorms(trace(Functional(), (2, 4))))) == 2


def test_subclasses_are_seen():
    net = lively(nn.Sequential(nn.Conv2d(1, 3, 3), Subclassed(3)), (1, 6, 6))
    assert [node.name for node in batchnorms(trace(net, (1, 6, 6)))] == ["1"]


def test_a_batchnorm_without_running_statistics_is_refused():
    with pytest.raises(TraceError, match="no running statistics"):
        trace(no_statistics(), (1, 6, 6))


class Standardised(nn.Conv2d):
    """As timm's ScaledStdConv2d: the weights' own statistics, by batch_norm in training mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.weight.reshape(1, len(self.weight), -1)
        weights = nn.functional.batch_norm(weights, None, None, training=True, momentum=0.0)
        return nn.functional.conv2d(x, weights.reshape_as(self.weight), self.bias)


class Embedded(nn.Module):
    """One BatchNorm of weights, with running statistics, and one of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.of_place = nn.Parameter(torch.randn(1, 3, 6, 6)), nn.BatchNorm2d(3)
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x + self.of_place(self.place)))


@pytest.mark.parametrize("first", [Standardised(3, 4, 3), Embedded()])
def test_a_batchnorm_of_weights_alone_is_none_of_rows(first):
    width = 4 if isinstance(first, Standardised) else 3
    net = lively(nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU()), (3, 6, 6))
    source = of_net(net, (3, 6, 6), preprocessing=None, labels=None, description="a net", digest=None)
    left = [node.name for node in batchnorms(source.graph)]
    assert left == (["1"] if width == 4 else ["0.norm", "1"])
    rows = np.random.default_rng(0).normal(size=(3, 3, 6, 6)).astype(np.float32)
    (answer,) = load(serialize(source.graph), optimised=True)({"input": rows}).values()
    np.testing.assert_allclose(answer, source.evaluate({"input": rows})["logits"], atol=1e-5)


class Written(nn.Module):
    """Rows become part of a tensor that is made of weights, and are normalised by the batch there."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(2, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.weights * 2
        made[:, 1:] = x[:2, 1:]
        return nn.functional.batch_norm(made, None, None, training=True)


def test_weights_that_rows_were_written_into_are_of_rows():
    with pytest.raises(TraceError, match="no running statistics"):
        trace(Written(), (4,))


def test_a_wrong_row_shape_says_which():
    with pytest.raises(TraceError, match=r"fails on rows of shape \[2, 3, 8, 8\]"):
        trace(everything(), (3, 8, 8))


class Aliased(nn.Module):
    """One BatchNorm under two names, one called as a function by its parent, one after an InstanceNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(2)
        self.second = self.first
        self.parts = nn.Sequential(nn.Conv2d(2, 2, 1), self.first)
        self.norm = nn.BatchNorm2d(2)
        self.instance = nn.InstanceNorm2d(2, track_running_stats=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.parts(self.second(x))
        return self.instance(nn.functional.batch_norm(x, self.norm.running_mean, self.norm.running_var))


def test_a_batchnorm_of_two_names_is_one():
    net = Aliased().eval()
    ran = watch_batchnorms(net, torch.zeros(2, 2, 4, 4)).ran
    assert ran == ["first", "first", "norm", "instance"]
    assert len(list(batchnorms(trace(net, (2, 4, 4))))) == 4


class Tries(nn.Module):
    """A call that fails within a call that fails, as where some of a net's layers take lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), nn.ReLU()])

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        for block in self.blocks:
            try:
                x = block(x, lengths)
            except TypeError:
                x = block(x)
        return x


def test_a_call_that_fails_may_be_tried():
    model = trace(Tries(), (1, 5, 5))
    assert [node.name for node in batchnorms(model)] == ["blocks.0.1"]
