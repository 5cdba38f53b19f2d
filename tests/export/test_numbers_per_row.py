"""Inputs of one number a row, (N,), as an age or a length beside a picture."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from export_kit import run_here
from own_net_kit import answers, offer


class Scaled(nn.Module):
    """Both shapes would run without the check: (N, 1) as another product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)

    def forward(self, x, age):
        if age.dim() != 1:
            raise ValueError("one age a row")
        return self.norm(self.first(x)) * age[:, None]


class Alone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(1, 3), nn.BatchNorm1d(3)

    def forward(self, age):
        if age.dim() != 1:
            raise ValueError("one age a row")
        return self.norm(self.first(age[:, None]))


AGES = np.array([0.5, -2.0, 3.0], dtype=np.float32)


@pytest.mark.parametrize("age", ["age=N", "age=1"])
@pytest.mark.parametrize("kind", [Scaled, Alone])
def test_a_number_a_row_is_served_as_such(tmp_path, monkeypatch, kind, age):
    net = offer(monkeypatch, kind)
    rows = {"x": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)} if kind is Scaled else {}
    flags = [*(["--input-shape", "x=4"] if rows else []), "--input-shape", age]
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folded"] == 1
    rows["age"] = AGES
    with torch.no_grad():
        expected = net(*map(torch.from_numpy, rows.values())).numpy()
    np.testing.assert_allclose(answers(tmp_path / "m", rows)[0], expected, atol=1e-5)


def test_a_net_that_takes_columns_gets_columns(tmp_path, monkeypatch):
    net = offer(monkeypatch, lambda: nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3)))
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", "--input-shape", "1")
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = net(torch.from_numpy(AGES[:, None])).numpy()
    np.testing.assert_allclose(answers(tmp_path / "m", {"input": AGES[:, None]})[0], expected, atol=1e-5)
