"""A net that returns a loss, one number for all rows, beside its answers: these are served without it."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from export_kit import run_here
from own_net_kit import answers, offer

SHAPE = ("--input-shape", "3,9,9")


class Regularised(nn.Module):
    """As of sparse attention or mixtures of experts; the loss has a BatchNorm of its own."""

    def __init__(self, answer: Callable[[torch.Tensor, torch.Tensor], object]) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.loss_norm, self.answer = nn.BatchNorm1d(8), answer

    def forward(self, x: torch.Tensor) -> object:
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.answer(self.head(x), self.loss_norm(x).pow(2).mean())


@pytest.mark.parametrize(
    ("answer", "name", "left_out"),
    [
        (lambda y, loss: (y, loss), "logits", "output_1"),
        (lambda y, loss: {"aux": {"loss": loss}, "out": y}, "out", "aux.loss"),
    ],
)
def test_it_is_left_out_and_said(tmp_path, monkeypatch, answer, name, left_out):
    net = offer(monkeypatch, lambda: Regularised(answer))
    done = run_here("bundle", "mine:make", *SHAPE, "--to", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    assert (
        f"one number for all rows of a batch is no row's answer, and is left out: {left_out}\n" in done.stderr
    )
    assert "these BatchNorms, which are left out: loss_norm\n" in done.stderr
    manifest = json.loads((tmp_path / "m/1/manifest.json").read_text())
    assert [output["name"] for output in manifest["outputs"]] == [name]
    rows = np.random.default_rng(0).normal(size=(3, 3, 9, 9)).astype(np.float32)
    with torch.no_grad():
        found = net(torch.from_numpy(rows))
    expected = found["out"] if isinstance(found, dict) else found[0]
    np.testing.assert_allclose(answers(tmp_path / "m", {"input": rows})[0], expected.numpy(), atol=1e-4)


def test_alone_it_is_refused(tmp_path, monkeypatch):
    offer(monkeypatch, lambda: Regularised(lambda y, loss: y.mean() + loss))
    done = run_here("bundle", "mine:make", *SHAPE, "--to", tmp_path / "m")
    assert done.returncode == 2
    assert "'logits' is one number for all rows of a batch" in done.stderr


def test_several_are_refused_too(tmp_path, monkeypatch):
    offer(monkeypatch, lambda: Regularised(lambda y, loss: (y.mean(), loss)))
    done = run_here("bundle", "mine:make", *SHAPE, "--to", tmp_path / "m")
    assert done.returncode == 2
    assert "'output_0' is one number for all rows of a batch" in done.stderr
