"""A forward may ask for the numbers of the net's own tensors: those do not depend on its rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as fn

from export.compute.runtime import load
from export.errors import TraceError
from export.graph.file import serialize
from export.sources.net import of_net

Middle = Callable[["Net", torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """A BatchNorm, and a `middle` that asks."""

    def __init__(self, middle: Middle) -> None:
        super().__init__()
        self.norm, self.middle = nn.BatchNorm2d(4), middle
        self.register_buffer("is_ready", torch.tensor(True))
        self.register_buffer("count", torch.tensor(2))
        self.temperature = nn.Parameter(torch.tensor(1.7))
        self.plain = torch.tensor([0.5, 3.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.middle(self, self.norm(x))


def written_after_it_was_seen(net: Net, x: torch.Tensor) -> torch.Tensor:
    counts = torch.zeros(2)
    seen = counts[:1]
    counts.add_(3)
    return x * seen.item()


def out_of(net: Net, x: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(2)
    seen = found[1:]
    torch.add(net.plain, 1, out=found)
    return x * seen.item()


class Image(torch.Tensor):
    """As fastai's TensorBase: what makes one of a fake tensor fails."""

    @staticmethod
    def __new__(cls, x: torch.Tensor) -> "Image":
        return x.as_subclass(cls)

    def clone(self, *, memory_format: Any = None) -> "Image":
        return self.as_subclass(torch.Tensor).clone().as_subclass(type(self))


MIDDLES: dict[str, Middle] = {
    "whether it is ready": lambda net, x: x * 2 if net.is_ready else x,
    "whether it has seen a batch": lambda net, x: x if net.norm.num_batches_tracked == 0 else x * 2,
    "whether a weight is finite": lambda net, x: x * 3 if torch.isnan(net.temperature).any() else x,
    "a count of its own": lambda net, x: fn.pad(x, (int(net.count),) * 4),
    "a scale": lambda net, x: fn.interpolate(x, scale_factor=net.count.item()),
    "a number of a table": lambda net, x: x * float(torch.linspace(0, 1, 5)[3]),
    "a size of an array": lambda net, x: x[:, :, : int(torch.from_numpy(np.array([3, 4]))[0])],
    "how often": lambda net, x: sum((x + one for one in range(net.count)), x),
    "a tensor that is no buffer": lambda net, x: x * 2 if net.plain[1] > 1 else x,
    "in an array": lambda net, x: x * net.temperature.detach().numpy().item(),
    "in a list": lambda net, x: x + net.plain.tolist()[1],
    "in words": lambda net, x: x * float(f"{net.plain[1]:.1f}"),
    "whether two are equal": lambda net, x: x * 2 if torch.equal(net.count, torch.tensor(2)) else x,
    "of a part of many": lambda net, x: x + torch.stack([net.temperature, net.plain[0]]).unbind()[1].item(),
    "of a name of its own": lambda net, x: x * net.plain.max(dim=0).values.item(),
    "an inverse": lambda net, x: x @ torch.linalg.inv(torch.eye(6) + net.temperature),
    "parts of a matrix": lambda net, x: x * torch.svd(torch.outer(net.plain, net.plain)).S[0],
    "a function without an op": lambda net, x: x * torch.lgamma(net.temperature),
    "a window without one": lambda net, x: x * torch.kaiser_window(6, False, net.count.item()),
    "a tensor of a class of its own": lambda net, x: Image(x),
    "the number of rows": lambda net, x: x * torch.arange(x.shape[0]).sum().item(),
    "what was written into": written_after_it_was_seen,
    "what a function wrote": out_of,
}


def source_of(net: nn.Module) -> Any:
    return of_net(net, (4, 6, 6), preprocessing=None, labels=None, description="a net", digest=None)


@pytest.mark.parametrize("name", MIDDLES)
def test_the_graph_answers_as_the_net_does(name):
    net = Net(MIDDLES[name]).eval()
    source = source_of(net)
    assert source.max_rows is None
    rows = np.random.default_rng(0).normal(size=(3, 4, 6, 6)).astype(np.float32)
    (found,) = load(serialize(source.graph), optimised=True)({"input": rows}).values()
    with torch.no_grad():
        expected = net(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "middle",
    [
        lambda net, x: x * 2 if x.sum() > 0 else x,
        lambda net, x: x * 2 if (net.temperature * x).max() > 0 else x,
        lambda net, x: x * 2 if net.plain[0].add(x[0, 0, 0, 0]) > 0 else x,
        lambda net, x: x * 2 if torch.zeros(2).fill_(x.mean()).sum() > 0 else x,
    ],
)
def test_what_the_rows_decide_is_refused(middle):
    with pytest.raises(TraceError, match="cannot be traced: Could not"):
        source_of(Net(middle))


def test_python_asks_as_before_afterwards():
    source_of(Net(MIDDLES["a count of its own"]))
    assert {"__int__", "__float__", "__index__", "as_subclass"}.isdisjoint(vars(torch.Tensor))
