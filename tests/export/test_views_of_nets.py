"""Nets whose forward writes its views with sizes and a −1: the BatchNorms across them fold."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as fn

from export_kit import run_here
from own_net_kit import answers, offer


class Viewed(nn.Module):
    """Conv, Relu, BatchNorm with γ of both signs, a view, mean, Linear."""

    def __init__(self, view: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.Linear(12, 3)
        self.view = view

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.view(self.norm(self.conv(x).relu())))


class Seeded(nn.Module):
    """A picture made of a vector, as generators begin; without γ and β, or with them."""

    def __init__(self, *, affine: bool) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(192, 128), nn.BatchNorm2d(8, affine=affine)
        self.conv = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x.flatten(1))
        return self.conv(self.norm(y.view(y.size(0), -1, 4, 4)).relu())


VIEWS: dict[str, Callable[[], nn.Module]] = {
    "rows, a number, −1": lambda: Viewed(lambda x: x.view(x.shape[0], 12, -1).mean(-1)),
    "rows, channels, −1": lambda: Viewed(lambda x: x.view(x.size(0), x.size(1), -1).mean(-1)),
    "heads": lambda: Viewed(lambda x: x.view(x.shape[0], 3, 4, -1).flatten(1, 2).mean(-1)),
    "rows and pixels, len(x)": lambda: Viewed(
        lambda x: x.permute(0, 2, 3, 1).reshape(-1, x.size(1)).view(len(x), -1, 12).mean(1)
    ),
    "an unfold": lambda: Viewed(lambda x: fn.unfold(x, 2).mean(-1).view(-1, 12, 4).mean(-1)),
    "rows, −1 channels": lambda: Seeded(affine=True),
    "without γ and β": lambda: Seeded(affine=False),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_batchnorm_folds_across_a_view(tmp_path, monkeypatch, name):
    net = offer(monkeypatch, VIEWS[name])
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", "--input-shape", "3,8,8")
    assert "len" not in globals(), "Python's own is back"
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["declined"] == 0, done.stderr
    rows = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(answers(tmp_path / "m", {"input": rows})[0], expected, rtol=1e-4, atol=1e-4)
