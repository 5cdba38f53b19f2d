"""The fold zoo's run: processes, errors, the store, and each tool on a tiny net."""

import os
import signal
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from benchmarks.fold_zoo import __main__ as command
from benchmarks.fold_zoo import measure as measuring
from benchmarks.fold_zoo import nets, store
from benchmarks.fold_zoo.build import Subject
from benchmarks.fold_zoo.draw import randomise_net
from benchmarks.fold_zoo.errors import is_right, worst_error
from benchmarks.fold_zoo.isolate import ProcessFailed, isolated
from benchmarks.fold_zoo.store import Row
from benchmarks.fold_zoo.table import render
from export.sources.trace import trace


def test_a_separate_process_returns_raises_hangs_or_dies():
    assert isolated(20, lambda: 42) == 42
    with pytest.raises(ProcessFailed, match="ValueError: broken"):
        isolated(20, _raise, ValueError("broken"))
    with pytest.raises(ProcessFailed, match=r"no answer after 0\.1 s"):
        isolated(0.1, time.sleep, 60)
    with pytest.raises(ProcessFailed, match="SIGKILL"):
        isolated(20, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ProcessFailed, match="not installed: no_such_tool"):
        isolated(20, _raise, ModuleNotFoundError(name="no_such_tool"))


def _raise(error):
    raise error


def test_errors_are_relative_and_wrong_ones_are_detected():
    truth = [np.array([[2.0, -4.0]])]
    assert worst_error([np.array([[2.0, -4.4]])], truth) == pytest.approx(0.1)
    assert worst_error([np.array([[2.0, np.nan]])], truth) == np.inf
    assert worst_error([], truth) == np.inf
    row = Row(net="timm/a", gammas="both", tool="t", error=2e-6, unfolded_error=1e-6)
    assert is_right(row)
    assert not is_right(replace(row, error=1e-2))
    assert not is_right(replace(row, error=float("nan")))


def test_a_wrong_tool_has_removed_none():
    row = Row(net="timm/a", gammas="both", tool="t", found=5, left=1)
    assert row.removed == 4
    assert replace(row, outcome="wrong").removed == 0


def test_rows_survive_the_csv(tmp_path):
    row = Row(net="timm/a", gammas="both", tool="t", reason='a, "b"', found=5, error=0.25)
    store.write(tmp_path / "fold_zoo.csv", [row])
    assert store.read(tmp_path / "fold_zoo.csv") == [row]
    assert store.read(tmp_path / "other.csv") == []


def test_only_what_is_pending_runs():
    name = "timm/resnet18"
    rows = [Row(net=name, gammas="both", tool=tool, version="old") for tool in ("onnxsim", "ours")]
    assert command.pending(name, rows, fresh=False, redo=None) == (["positive"], {})
    assert command.pending(name, rows, fresh=True, redo=None) == (["both", "positive"], {})
    assert command.pending(name, rows, fresh=False, redo="old") == (["positive"], {})
    assert command.pending(name, rows, fresh=False, redo="new") == (["both", "positive"], {"both": rows})


def test_merging_replaces_whole_measurements_and_keeps_the_order():
    old = [Row(net=name, gammas="both", tool="a") for name in ("timm/resnet34", "timm/resnet18")]
    new = [Row(net="timm/resnet34", gammas="both", tool="b")]
    assert store.merge(old, new, nets.ALL) == [old[1], new[0]]


def test_the_list_of_nets():
    assert len(nets.ALL) == len(set(nets.ALL)) > 100
    assert set(nets.QUICK) <= set(nets.ALL)
    assert nets.choose(["resnet18"], quick=False) == ["timm/resnet18", "torchvision/resnet18"]
    with pytest.raises(ValueError, match="nosuchnet"):
        nets.choose(["nosuchnet"], quick=False)


def test_unknown_flags_are_refused(capsys):
    assert command.parse(["--flags", "threshold,pad"]).flags == ("threshold", "pad")
    with pytest.raises(SystemExit):
        command.parse(["--flags", "magic"])
    assert "magic" in capsys.readouterr().err


def test_statistics_are_drawn_the_same_each_time():
    net = nn.Sequential(nn.Conv2d(3, 64, 1), nn.BatchNorm2d(64))
    weight = net[0].weight.clone()
    randomise_net(net, "both")
    first = net[1].weight.clone()
    assert (first < 0).any()
    assert (first > 0).any()
    randomise_net(net, "positive")
    assert (net[1].weight > 0).all()
    assert torch.equal(net[1].weight, first.abs())
    assert torch.equal(net[0].weight, weight)


@pytest.fixture
def tiny(monkeypatch):
    """A zoo of one net: Conv → BN, which all fold, and ReLU → BN before a padded Conv, which none fold."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
    ).eval()
    subject = Subject(net=net.requires_grad_(False), graph=trace(net, (3, 8, 8)), row_shape=(3, 8, 8))
    monkeypatch.setattr(measuring, "build", lambda name: subject)
    monkeypatch.setattr(measuring, "CHOOSE_S", 0.01)
    monkeypatch.setattr(measuring, "COMPARE_S", 0.01)


@pytest.mark.usefixtures("tiny")
def test_a_net_is_measured_with_every_tool_and_ours_redone():
    rows = command.measured("timm/tiny", ["both", "positive"], (), {})
    of = {(row.gammas, row.tool): row for row in rows}
    for gammas in store.GAMMAS:
        for tool in ("ORT basic", "ORT extended", "ORT all", "onnxscript", "torch.fx fuse"):
            row = of[gammas, tool]
            assert (row.outcome, row.found, row.left) == ("ok", 2, 1), row
            assert row.error is not None
            assert row.error < 1e-5
        mine = of[gammas, "ours"]
        assert mine.outcome == "ok"
        assert mine.removed >= 1
        assert mine.time_ratio is not None
    known = {"both": [row for row in rows if row.gammas == "both"]}
    again = command.measured("timm/tiny", ["both"], (), known)
    assert again[:-1] == known["both"][:-1]
    assert again[-1].tool == "ours"
    assert again[-1].time_ratio is not None
    assert "timm/tiny" in render(rows)


@pytest.mark.usefixtures("tiny")
def test_a_tool_that_fails_or_changes_the_answer_is_listed(monkeypatch):
    def nudged(source, target):
        model = onnx.load(source)
        weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
        array = onnx.numpy_helper.to_array(weight).copy()
        array[0] += 1
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        onnx.save(model, target)
        return 0.0

    monkeypatch.setattr(
        measuring,
        "ONNX_TOOLS",
        {"onnxsim": nudged, "OnnxSlim": lambda *_: os.kill(os.getpid(), signal.SIGKILL)},
    )
    rows = command.measured("timm/tiny", ["both"], (), {})
    of = {row.tool: row for row in rows}
    assert of["onnxsim"].outcome == "wrong"
    assert of["OnnxSlim"].outcome == "failed"
    assert "SIGKILL" in of["OnnxSlim"].reason
    text = render(rows)
    assert "SIGKILL" in text
    assert "of the output range" in text


def test_a_net_that_cannot_be_built_is_listed(monkeypatch):
    monkeypatch.setattr(measuring, "build", lambda name: _raise(RuntimeError("no such net")))
    rows = command.measured("timm/ghost", ["both"], (), {})
    assert [(row.tool, row.outcome, row.reason) for row in rows] == [
        ("net", "failed", "RuntimeError: no such net")
    ]
    assert "RuntimeError: no such net" in render(rows)
