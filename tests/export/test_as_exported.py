"""What torch's exporter has no op for is written in other words, of the same numbers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as fn

from export.compute.runtime import load
from export.graph.file import serialize
from export.sources.as_exported import AsExported
from export.sources.net import of_net

Function = Callable[[torch.Tensor], torch.Tensor]
WORDS: dict[str, Function] = {
    "cdist": lambda x: torch.cdist(x[:, 0], x[:, 1]),
    "cdist by sums": lambda x: torch.cdist(x, x.flip(2), p=1.0),
    "kthvalue": lambda x: x.kthvalue(2, 1)[0],
    "kthvalue with names": lambda x: torch.kthvalue(input=x, k=3, dim=2, keepdim=True).values,
    "the median of three": lambda x: x.median(1)[0],
    "the median of eight": lambda x: torch.median(x, dim=2, keepdim=True).values,
    "where it is": lambda x: torch.median(x, 3).indices.to(x.dtype),
    "an average by a divisor": lambda x: fn.avg_pool2d(x, 3, 2, divisor_override=5),
    "of other windows": lambda x: nn.AvgPool2d((3, 2), 1, (1, 1), divisor_override=5)(x),
    "in three dimensions": lambda x: fn.avg_pool3d(x, 3, 1, 1, divisor_override=5),
    "the largest of 3 · 3": lambda x: fn.adaptive_max_pool2d(x, 3),
    "of 3 · 5": lambda x: nn.AdaptiveMaxPool2d((3, 5))(x),
    "of more than there are": lambda x: fn.adaptive_max_pool2d(x, 11),
    "along one axis": lambda x: nn.AdaptiveMaxPool2d((None, 3))(x),
    "of a sequence": lambda x: nn.AdaptiveMaxPool1d(5)(x.flatten(2)),
    "of a volume": lambda x: nn.AdaptiveMaxPool3d((2, 3, 5))(x),
    "a hypotenuse": lambda x: torch.hypot(x, x.flip(1)),
    "running products of three": lambda x: x.cumprod(1),
    "of eight": lambda x: torch.cumprod(x * 2, dim=-1),
    "of whole numbers": lambda x: (x * 4).long().cumprod(2).to(x.dtype),
    "where it belongs": lambda x: torch.searchsorted(torch.linspace(0, 1, 5, dtype=x.dtype), x).to(x.dtype),
    "from the right": lambda x: torch.searchsorted(
        torch.linspace(0, 1, 5, dtype=x.dtype), x.round(decimals=1), side="right"
    ).to(x.dtype),
    "a hamming window": lambda x: x * torch.hamming_window(8, False, dtype=x.dtype),
}
LEFT: dict[str, Function] = {
    "what divides the size": lambda x: fn.adaptive_max_pool2d(x, 4),
    "the places of the largest": lambda x: fn.adaptive_max_pool2d(x, 3, return_indices=True)[1].to(x.dtype),
    "the median of all": lambda x: x.median(),
    "an average": lambda x: fn.avg_pool2d(x, 3, 2),
    "where in its own row": lambda x: torch.searchsorted(x.sort(3)[0], x).to(x.dtype),
    "with a window beyond the border": lambda x: fn.avg_pool2d(x, 3, 2, 0, True, divisor_override=5),
}


@pytest.mark.parametrize("name", [*WORDS, *LEFT])
def test_the_answers_are_the_same(name):
    function = (WORDS | LEFT)[name]
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with AsExported():
        found = function(x)
    torch.testing.assert_close(found, function(x), rtol=0, atol=1e-14)


class Net(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.norm, self.function = nn.BatchNorm2d(3), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.norm(x))


@pytest.mark.parametrize("name", WORDS)
def test_so_are_those_of_the_graph(name):
    net = Net(WORDS[name]).eval()
    source = of_net(net, (3, 8, 8), preprocessing=None, labels=None, description="a net", digest=None)
    rows = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    (found,) = load(serialize(source.graph), optimised=True)({"input": rows}).values()
    with torch.no_grad():
        expected = net(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
