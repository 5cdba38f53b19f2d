"""Golden rows that a net has no finite answer to, or another one in float32: replaced where they are few."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from export_kit import assert_refused, run_here
from own_net_kit import answers, offer
from service.contract.bundle import open_bundle


class Masked(nn.Module):
    """Attention over five places, some of them masked; of none that is left a softmax is NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x, mask):
        x = self.norm(self.first(x).transpose(1, 2)).transpose(1, 2)
        return self.attention(x, x, x, key_padding_mask=mask)[0]


class Logarithm(nn.Module):
    """Of numbers that are negative in every row of noise."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(16, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.first(torch.log(x)))


SHAPES = ("--input-shape", "x=5,4", "--input-shape", "mask=5", "--input-type", "mask=bool")


def test_a_row_that_masks_everything_is_replaced(tmp_path, monkeypatch):
    net = offer(monkeypatch, Masked)
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", *SHAPES)
    assert done.returncode == 0, done.stderr
    golden = open_bundle(tmp_path / "m/1").golden
    assert golden.num_rows >= 32
    assert not golden.inputs["mask"].all(axis=1).any()
    assert golden.inputs["mask"].any(), "masks are among the rows still"
    rows = {"x": golden.inputs["x"][:3], "mask": golden.inputs["mask"][-3:]}
    with torch.no_grad():
        expected = net(*map(torch.from_numpy, rows.values())).numpy()
    np.testing.assert_allclose(answers(tmp_path / "m", rows)[0], expected, atol=1e-5)


def test_a_row_that_was_given_stays(tmp_path, monkeypatch):
    offer(monkeypatch, Masked)
    x = np.random.default_rng(0).normal(size=(40, 5, 4)).astype(np.float32)
    mask = np.zeros((40, 5), dtype=bool)
    mask[3] = True
    np.savez(tmp_path / "rows.npz", x=x, mask=mask)
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", "--rows", tmp_path / "rows.npz")
    assert_refused(done, "not finite")


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_net_that_noise_does_not_fit_is_refused(tmp_path, monkeypatch):
    offer(monkeypatch, Logarithm)
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", "--input-shape", "16")
    assert_refused(done, "give real rows, --rows FILE.npz")


class Lengths(nn.Module):
    """A mask by lengths that are shares of the whole, as speechbrain's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4)

    def forward(self, x, lengths):
        mask = torch.arange(x.shape[-1])[None] < (lengths * x.shape[-1])[:, None]
        return (torch.relu(self.norm(self.conv(x))) * mask[:, None]).sum(2)


@pytest.mark.parametrize("tied", [2, 20])
def test_a_row_that_a_comparison_decides_otherwise_in_float32_widens_no_tolerance(
    tmp_path, monkeypatch, tied
):
    """0.4 · 30 is 12 in float32, and a little more in float64: one place more."""
    offer(monkeypatch, Lengths)
    chance = np.random.default_rng(0)
    lengths = chance.uniform(0.2, 1, 24).astype(np.float32)
    lengths[:tied] = 0.4
    np.savez(tmp_path / "rows.npz", x=chance.normal(size=(24, 3, 30)).astype(np.float32), lengths=lengths)
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", "--rows", tmp_path / "rows.npz")
    assert done.returncode == 0, done.stderr
    (tolerance,) = json.loads(done.stdout)["tolerances"].values()
    share = tolerance["max_abs"] / tolerance["output_range"]
    assert share < 1e-5 if tied == 2 else share > 1e-3, "most rows alone say nothing of a fold"
