"""BatchNorms that run and whose results no answer depends on: left out, and said; no other is."""

import json

import pytest
import torch
from torch import nn

from export.errors import TraceError
from export.graph.edit import batchnorms
from export.sources.net_inputs import of_row
from export.sources.trace import trace
from export.sources.watched import check_batchnorms, owners_of, unread_batchnorms, watch_batchnorms
from export_kit import run_here
from nets import lively
from own_net_kit import offer

SHAPE = (3, 9, 9)


class Auxiliary(nn.Module):
    """With a second head, of two BatchNorms one after another, that only training returns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.second = nn.Sequential(
            nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        )

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        answer, second = self.head(x.mean((2, 3))), self.second(x)
        return (answer, second) if self.training else answer


class Shared(nn.Module):
    """Its one BatchNorm runs twice, and the second result is not read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.norm(self.conv(x))
        self.norm(x)
        return x


def test_it_is_left_out_and_said(tmp_path, monkeypatch):
    offer(monkeypatch, Auxiliary)
    said = "nothing reads the results of these BatchNorms, which are left out: second.1, second.3"
    shape = ("--input-shape", "3,9,9")
    done = run_here("bundle", "mine:make", *shape, "--to", tmp_path / "net")
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    assert json.loads(done.stdout)["folded"] == 1
    manifest = json.loads((tmp_path / "net" / "1" / "manifest.json").read_text())
    assert said in manifest["provenance"]["source"]
    done = run_here("fold", "mine:make", tmp_path / "out.onnx", *shape)
    assert (done.returncode, said in done.stderr) == (0, True)


@pytest.mark.parametrize(("make", "left"), [(Auxiliary, ["norm"]), (Shared, ["norm"])])
def test_only_those_that_are_read_are_in_the_graph(make, left):
    net = lively(make(), SHAPE)
    assert [node.name for node in batchnorms(trace(net, SHAPE))] == left


@pytest.mark.parametrize("change", [torch.relu, torch.sign, lambda x: x.clamp(max=0), lambda x: x.argmax(1)])
def test_one_that_the_exporter_lost_is_not_taken_for_unread(change):
    net = lively(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), SHAPE)
    net.forward = lambda x: change(net[1](net[0](x)))
    rows = torch.randn(2, *SHAPE)
    ran = watch_batchnorms(net, rows).ran
    model = trace(net, SHAPE)
    lost = next(batchnorms(model))
    lost.outputs[0].replace_all_uses_with(lost.inputs[0], replace_graph_outputs=True)
    model.graph.remove(lost, safe=True)
    assert unread_batchnorms(model, net, ran, [rows], of_row(SHAPE)) == []
    with pytest.raises(TraceError, match=r"missing \['1'\]"):
        check_batchnorms(model, ran, owners_of(net))
