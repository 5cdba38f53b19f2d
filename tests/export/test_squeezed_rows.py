"""Nets that squeeze: sizes that are no 1 stay, and the rows of a single one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from export_kit import run_here
from own_net_kit import answers, offer

SQUEEZES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "all": lambda x: x.squeeze(),
    "the last two": lambda x: x.squeeze(-1).squeeze(-1),
    "two at once": lambda x: torch.squeeze(x, (2, 3)),
    "the rows, and the channels": lambda x: x.squeeze(0).squeeze(1).flatten(1),
    "with a name": lambda x: torch.squeeze(input=x, dim=3).squeeze(dim=2),
}


class Pooled(nn.Module):
    """As many a classifier has it: `x = self.pool(x).squeeze()`, which leaves no axis for a single row."""

    def __init__(self, squeeze: Callable[[torch.Tensor], torch.Tensor], size: int = 5) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, size)
        self.pool, self.squeeze = nn.AdaptiveAvgPool2d(1), squeeze

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.squeeze(self.pool(self.norm(self.conv(x)).relu())))


class Scored(Pooled):
    """One number a row, whose axis goes too; softmax over axis 1 fails for a single row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).softmax(1).amax(1, keepdim=True).squeeze()


class Convolved(nn.Module):
    """speechbrain's: squeezed if it has one channel, which it has not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x).squeeze(1)).squeeze(2)


NETS: dict[str, Callable[[], nn.Module]] = {
    **{name: (lambda squeeze=squeeze: Pooled(squeeze)) for name, squeeze in SQUEEZES.items()},
    "one class": lambda: Pooled(lambda x: x.squeeze(), 1),
    "one number": lambda: Scored(lambda x: x.squeeze()),
    "no channel": Convolved,
}


@pytest.mark.parametrize("name", NETS)
def test_one_row_is_answered_as_one_of_several(tmp_path, monkeypatch, name):
    net = offer(monkeypatch, NETS[name])
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", "--input-shape", "3,9,9")
    assert done.returncode == 0, done.stderr
    assert "one row a call" not in done.stderr
    rows = np.random.default_rng(0).normal(size=(3, 3, 9, 9)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(rows)).numpy()
    for some in (slice(0, 3), slice(1, 2)):
        (found,) = answers(tmp_path / "m", {"input": rows[some]})
        np.testing.assert_allclose(found, expected[some], rtol=1e-4, atol=1e-4)


def test_a_net_that_fails_on_any_rows_says_why(tmp_path, monkeypatch):
    class Fails(Pooled):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype == torch.float64:
                raise ValueError("only float32 here")
            return super().forward(x)

    offer(monkeypatch, lambda: Fails(lambda x: x.squeeze()))
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", "--input-shape", "3,9,9")
    assert done.returncode == 2
    assert "does not run on golden rows, in float64: only float32 here" in done.stderr
