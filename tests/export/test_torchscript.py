"""TorchScript files: no Python is left to trace, and all of a net goes in."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.compute.runtime import load
from export.errors import ExportError, SourceError, TraceError
from export.graph.edit import batchnorms
from export.graph.file import serialize
from export.sources.opening import open_source
from export.sources.source import Source, SourceOptions
from export_kit import run_here

SHAPES = {"": (3, 8, 8)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


class Branches(Net):
    """A script keeps what its numbers decide."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        if bool((y.mean() > 100).item()):
            y = y.relu()
        return self.head(y.mean((2, 3)))


class Narrow(Net):
    """It names float32, so that its float64 does not run."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)).to(torch.float32))


class OneRow(Net):
    """It takes one row a call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x)).relu()
        return self.head(y.mean((2, 3)).reshape(1, 4))


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(10, 4), nn.BatchNorm1d(4)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.norm(self.table(ids).mean(1) + x)
        return y, torch.stack([y, y], 1)


def saved(script: torch.jit.ScriptModule, folder: Path) -> Path:
    torch.jit.save(script, folder / "net.pt")
    return folder / "net.pt"


def scripted(net: nn.Module) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own deprecation
        return torch.jit.script(net.eval())


def traced(net: nn.Module, *rows: torch.Tensor) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(net.eval(), rows or (torch.zeros(1, 3, 8, 8),))


def answers(source: Source, **rows: np.ndarray) -> list[np.ndarray]:
    return list(load(serialize(source.graph), optimised=True)(rows).values())


MADE = {
    "traced": (lambda: traced(Net()), 1),
    "scripted": (lambda: scripted(Net()), 1),
    "with branches": (lambda: scripted(Branches()), 1),
    "that names float32": (lambda: scripted(Narrow()), 1),
    "frozen": (lambda: torch.jit.freeze(scripted(Net())), 0),
    "in training mode": (lambda: torch.jit.script(Net()), 1),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MADE)
def test_it_answers_as_its_net_does(tmp_path, name):
    make, num_batchnorms = MADE[name]
    torch.manual_seed(0)
    script = make()
    source = open_source(str(saved(script, tmp_path)), SourceOptions(shapes=SHAPES))
    assert len(list(batchnorms(source.graph))) == num_batchnorms
    assert source.max_rows is None
    rows = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    (found,) = answers(source, input=rows)
    expected = script.eval()(torch.from_numpy(rows)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    (truth,) = source.evaluate({"input": rows}).values()
    np.testing.assert_allclose(truth, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_several_inputs_and_answers(tmp_path):
    rows = (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 4))
    script = traced(Several(), *rows)
    options = SourceOptions(shapes={"x": (4,), "ids": (3,)}, types={"ids": "int64"})
    file = saved(script, tmp_path)
    source = open_source(str(file), options)
    for shapes in ({"x": (4,)}, {"x": (4,), "ids": (3,), "y": (2,)}, {"": (4,)}):
        with pytest.raises(SourceError, match=r"takes ids, x, found .*: --input-shape ids=C,H,W -"):
            open_source(str(file), SourceOptions(shapes=shapes))
    assert [one.name for one in source.inputs] == ["ids", "x"]
    ids = np.random.default_rng(0).integers(0, 10, (4, 3))
    x = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    expected = [one.detach().numpy() for one in script(torch.from_numpy(ids), torch.from_numpy(x))]
    for found, wanted in zip(answers(source, ids=ids, x=x), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_one_row_that_was_traced_stands_for_each(tmp_path):
    """The script answers one row alone; the graph any number, each as the script does."""
    script = traced(OneRow())
    source = open_source(str(saved(script, tmp_path)), SourceOptions(shapes=SHAPES))
    rows = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    (found,) = answers(source, input=rows)
    expected = [script(torch.from_numpy(row[None])).detach().numpy() for row in rows]
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_the_command_line_takes_one(tmp_path):
    file = saved(scripted(Net()), tmp_path)
    done = run_here("bundle", file, "--input-shape", "3,8,8", "--to", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    assert "1 BatchNormalization, 1 folded" in done.stderr
    done = run_here("bundle", file, "--to", tmp_path / "other")
    assert (done.returncode, "needs --input-shape" in done.stderr) == (2, True)
    done = run_here("bundle", file, "--input-shape", "4,8,8", "--to", tmp_path / "other")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "fails on rows of shape [2, 4, 8, 8]" in done.stderr


@pytest.mark.filterwarnings("ignore")
def test_a_graph_of_another_function_is_refused(tmp_path, monkeypatch):
    """The exporter is given a net whose head is 1 % larger than the file's."""
    file = saved(scripted(Net()), tmp_path)
    export = torch.onnx.export

    def of_another(net: nn.Module, *args: object, **kwargs: object) -> object:
        other = torch.jit.load(file).eval()
        other.head.weight.data *= 1.01
        return export(other, *args, **kwargs)

    monkeypatch.setattr("torch.onnx.export", of_another)
    with pytest.raises(TraceError, match="the traced graph is not the net"):
        open_source(str(file), SourceOptions(shapes=SHAPES))


@pytest.mark.filterwarnings("ignore")
def test_a_torn_file_is_one_sentence(tmp_path):
    file = saved(scripted(Net()), tmp_path)
    content = bytearray(file.read_bytes())
    start = content.index(b"code/__torch__")
    content[start + 40 : start + 90] = b"?" * 50
    file.write_bytes(content)
    with pytest.raises((SourceError, ExportError)):
        open_source(str(file), SourceOptions(shapes=SHAPES))
