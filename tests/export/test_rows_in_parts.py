"""Nets that put their heads among the rows and take them out again serve any number of rows."""

import json
import sys
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


NET = """
import torch
from torch import nn
from {package}.masks import mask_of

class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x):
        lengths = torch.ones(x.shape[0]) * x.shape[-1]
        return self.head((self.norm(self.conv(x)) * mask_of(lengths, x.shape[-1])[:, None]).mean(-1))
"""
MASKS = """
import torch

def mask_of(lengths, most):
    return torch.arange(most).expand(len(lengths), most) < lengths[:, None]
"""


def test_a_length_is_open_in_every_file_of_a_package(tmp_path, monkeypatch):
    """As of speechbrain, whose masks are made in a file that holds no net."""
    package = tmp_path / "speaking"
    package.mkdir()
    for name, text in {"__init__": "", "nets": NET.format(package="speaking"), "masks": MASKS}.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    done = run_here("bundle", "speaking.nets:Masked", "--to", tmp_path / "m", "--input-shape", "3,8")
    assert done.returncode == 0, done.stderr
    assert "one row a call" not in done.stderr
    assert "len" not in vars(sys.modules["speaking.masks"]), "Python's own is back"
