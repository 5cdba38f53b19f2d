"""Nets whose forward names a type, keeps a memory, or has weights that are made: what torch users write."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from export.compute.runtime import load
from export.errors import TraceError
from export.graph.edit import batchnorms
from export.graph.file import serialize
from export.sources.net import of_net
from export_kit import assert_refused, run_here

ROWS = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)


class Block(nn.Module):
    """Conv, BatchNorm, mean over the picture; `change` stands before, `finish` after."""

    def __init__(self, change=lambda net, x: x, finish=lambda net, y: y) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.change, self.finish = change, finish
        self.register_buffer("seen", torch.ones(()))
        self.thirds = torch.full((1, 1, 8, 8), 1 / 3)  # no buffer: net.double() leaves it as it is
        self.sparse = torch.eye(2).to_sparse()  # no comparison of torch's takes it

    def forward(self, x: torch.Tensor):
        return self.finish(self, self.norm(self.conv(self.change(self, x))).mean((2, 3)))


def opened(net: nn.Module):
    return of_net(net, (1, 8, 8), preprocessing=None, labels=None, description="a net", digest=None)


CASTS = {
    "float()": lambda net, x: x.float(),
    "to(float32)": lambda net, x: x.to(torch.float32),
    "to(device, dtype=)": lambda net, x: x.to("cpu", dtype=torch.float32),
    "a new tensor": lambda net, x: x + torch.zeros(x.shape),
    "pixels": lambda net, x: (x * 255).round().to(torch.uint8).float() / 255,
    "a tensor that is no buffer": lambda net, x: torch.matmul(x, net.thirds),
    "one in a list": lambda net, x: torch.stack([x, net.thirds.expand(len(x), -1, -1, -1)]).sum(0),
    "written into": lambda net, x: net.thirds.clone().expand(len(x), -1, -1, -1).clone().add_(x),
    "half and back": lambda net, x: x.half().float(),
}


@pytest.mark.parametrize("name", CASTS)
def test_a_forward_that_names_float32_is_computed_in_float64(name):
    net = Block(CASTS[name])
    source = opened(net)
    rows = {"input": np.abs(ROWS) % 1 if name == "pixels" else ROWS}
    truth = source.evaluate(rows)["logits"]
    with torch.no_grad():
        itself = net(torch.from_numpy(rows["input"])).numpy()
    # torch's own answer, in float32: a half has 11 bits, which a truth without rounding does not lose.
    apart = np.abs(truth - itself).max() / np.abs(itself).max()
    assert apart < (2**-10 if name == "half and back" else 1e-5)
    assert truth.dtype == np.float64
    assert np.any(truth != truth.astype(np.float32)), "it was computed in float32 after all"
    assert torch.get_default_dtype() == torch.float32


BOUNDS = {
    "a float and a whole number": lambda net, y: y.clamp(-1e-3, 1),
    "by name": lambda net, y: torch.clip(y, min=0, max=0.5),
    "whole numbers": lambda net, y: y.clamp(0, 1),
    "of whole numbers": lambda net, y: y * y.long().clamp(-1, 1),
    "tensors": lambda net, y: torch.clamp(y, net.seen - 1.5, net.seen),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_of_two_kinds_are_traced(name):
    net = Block(finish=BOUNDS[name])
    source = opened(net)
    (answer,) = load(serialize(source.graph), optimised=True)({"input": ROWS}).values()
    with torch.no_grad():
        np.testing.assert_allclose(answer, net(torch.from_numpy(ROWS)).numpy(), atol=1e-5)


class Through(nn.Module):
    """It answers what it was given as well, as a graph's adjacency goes on to the next block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x)), x


@pytest.mark.parametrize(
    "net", [Through(), Block(change=lambda net, x: x.data * 2)], ids=["its rows", "data"]
)
def test_rows_that_are_answered_and_tensors_outside_of_the_graph(net):
    source = opened(net.eval())
    found = load(serialize(source.graph), optimised=True)({"input": ROWS})
    assert [spec.name for spec in source.inputs] == ["input"]
    truth = source.evaluate({"input": ROWS})
    assert found.keys() == truth.keys()
    for name, answer in found.items():
        np.testing.assert_allclose(answer, truth[name], atol=1e-5)
    assert len(list(batchnorms(source.graph))) == 1


class Ring(Block):
    """Its answers are less the mean of those before."""

    def forward(self, x: torch.Tensor):
        y = super().forward(x)
        self.seen.mul_(0.9).add_(y.mean(), alpha=0.1)
        return y - self.seen


def count(net, y):
    net.seen += 1
    return y


def count_thirds(net, y):
    net.thirds += 1
    return y * net.thirds[0, 0, 0, 0]


@pytest.mark.parametrize(
    "net",
    [Block(finish=lambda net, y: count(net, y) * net.seen), Ring()],
    ids=["a counter", "a running mean"],
)
def test_a_net_that_remembers_is_refused(net):
    before = net.seen.clone()
    with pytest.raises(TraceError, match="changes its buffer 'seen'"):
        opened(net)
    assert torch.equal(net.seen, before), "the net stays as it was"


def test_a_net_that_remembers_in_a_tensor_that_is_no_buffer_is_refused():
    net = Block(finish=count_thirds)
    with pytest.raises(TraceError, match="changes its attribute 'thirds'"):
        opened(net)
    assert torch.equal(net.thirds, torch.full((1, 1, 8, 8), 1 / 3)), "the net stays as it was"


def test_a_counter_that_no_answer_depends_on_is_no_harm():
    net = Block(finish=count)
    source = opened(net)
    assert net.seen == 1
    (answer,) = load(serialize(source.graph), optimised=True)({"input": ROWS}).values()
    np.testing.assert_allclose(answer, source.evaluate({"input": ROWS})["logits"], atol=1e-5)


class Extra(Block):
    """torch's own way to keep more than tensors in a checkpoint."""

    def get_extra_state(self):
        return {"version": 2}

    def set_extra_state(self, state) -> None:
        pass


def orthogonal() -> nn.Module:
    net = Block()
    net.head = parametrizations.orthogonal(nn.Linear(4, 4))
    net.finish = lambda net, y: net.head(y)
    return net


def spectral() -> nn.Module:
    net = Block()
    net.conv = parametrizations.spectral_norm(net.conv)
    return net


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "make", [Extra, orthogonal, spectral, lambda: parametrizations.weight_norm(Block().conv)]
)
def test_weights_that_are_made_and_state_that_is_no_tensor(make):
    net = make().eval()
    with torch.no_grad():
        expected = net(torch.from_numpy(ROWS)).numpy()
    source = opened(net)
    (answer,) = load(serialize(source.graph), optimised=True)({"input": ROWS}).values()
    np.testing.assert_allclose(answer, expected, atol=1e-5)
    assert len(list(batchnorms(source.graph))) == isinstance(net, Block)


def test_fold_refuses_a_net_that_draws(tmp_path, monkeypatch):
    """It proves one batch only, and so asks twice."""
    (tmp_path / "drawing.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)\n"
        "    def forward(self, x):\n"
        "        return self.norm(self.conv(x)) + torch.randn(())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    done = run_here("fold", "drawing:Net", tmp_path / "out.onnx", "--input-shape", "1,8,8")
    assert_refused(done, "it draws random numbers")
