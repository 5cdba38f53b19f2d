"""Nets that put their heads among the rows and take them out again serve any number of rows."""

import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from export_kit import run_here
from own_net_kit import answers, offer

Parts = Callable[[torch.Tensor, int], Sequence[torch.Tensor]]


class Heads(nn.Module):
    """Attention as of Set Transformers: (rows, 8, t) becomes (2 · rows, t, 4), and is taken apart again."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8)
        self.of, self.head, self.parts = nn.Linear(8, 8), nn.Linear(8, 4), parts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.of(self.norm(self.conv(x)).transpose(1, 2))
        heads = torch.cat(y.split(4, -1), 0)
        mixed = torch.softmax(heads @ heads.mT, -1) @ heads
        return self.head(torch.cat(self.parts(mixed, x.size(0)), -1)).mean(1)


PARTS: dict[str, Parts] = {
    "split": lambda x, rows: x.split(rows),
    "split with names": lambda x, rows: x.split(split_size=rows, dim=-3),
    "torch.split": lambda x, rows: torch.split(x, rows, 0),
    "torch.split with names": lambda x, rows: torch.split(x, split_size_or_sections=rows, dim=0),
    "chunk": lambda x, rows: x.chunk(2, -3),
    "torch.chunk": lambda x, rows: torch.chunk(x, chunks=2, dim=0),
}


def served(tmp_path, monkeypatch, parts: Parts, rows: int) -> str:
    """What the bundle was written with, after its answers are the net's."""
    net = offer(monkeypatch, lambda: Heads(parts))
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", "--input-shape", "3,8")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["declined"] == 0, done.stderr
    given = np.random.default_rng(0).normal(size=(rows, 3, 8)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(given)).numpy()
    np.testing.assert_allclose(answers(tmp_path / "m", {"input": given})[0], expected, rtol=1e-4, atol=1e-4)
    return done.stderr


@pytest.mark.parametrize("name", PARTS)
def test_as_many_parts_as_heads(tmp_path, monkeypatch, name):
    assert "one row a call" not in served(tmp_path, monkeypatch, PARTS[name], 3)


def test_sizes_that_are_listed_are_left_to_the_exporter(tmp_path, monkeypatch):
    assert "one row a call" not in served(tmp_path, monkeypatch, lambda x, n: x.split([n, n]), 3)


def test_parts_that_the_rows_decide_fix_them(tmp_path, monkeypatch):
    assert "one row a call" in served(tmp_path, monkeypatch, lambda x, n: x.chunk(3)[:2], 1)
