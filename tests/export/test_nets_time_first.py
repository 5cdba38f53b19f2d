"""Nets whose rows are not the first axis of what they take or answer: they are served with rows first."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from export_kit import run_here
from own_net_kit import answers, offer
from service.contract.bundle import open_bundle


class TimeFirst(nn.Module):
    """(T, N, F) to scores (T, N, 5) and a state (1, N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.gru = nn.Linear(6, 4), nn.BatchNorm1d(4), nn.GRU(4, 4)
        self.last = nn.Linear(4, 5)

    def forward(self, x):
        seen, state = self.gru(self.norm(self.first(x).permute(1, 2, 0)).permute(2, 0, 1))
        return self.last(seen), state


class Recogniser(TimeFirst):
    """Pictures (N, 1, 6, W) to scores (W, N, 5)."""

    def forward(self, x):
        return super().forward(x[:, 0].permute(2, 0, 1))[0]


@pytest.mark.parametrize(("kind", "shape"), [(TimeFirst, "7,N,6"), (Recogniser, "1,6,7")])
def test_time_first_is_served_with_rows_first(tmp_path, monkeypatch, kind, shape):
    net = offer(monkeypatch, kind)
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", "--input-shape", shape)
    assert done.returncode == 0, done.stderr
    facts, manifest = json.loads(done.stdout), open_bundle(tmp_path / "m/1").manifest
    assert facts["folded"] == facts["found"] == 1
    assert manifest.max_rows is None
    assert "has its rows first" in manifest.provenance.source
    rows = np.random.default_rng(0).normal(size=(3, *manifest.inputs[0].row_shape)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(rows if kind is Recogniser else rows.transpose(1, 0, 2)))
    for served, itself in zip(answers(tmp_path / "m", {"input": rows}), [*expected], strict=False):
        theirs = itself if isinstance(expected, tuple) else expected
        np.testing.assert_allclose(served, theirs.numpy().transpose(1, 0, 2), atol=1e-5)
    assert run_here("fold", "mine:make", tmp_path / "out.onnx", "--input-shape", shape).returncode == 0
