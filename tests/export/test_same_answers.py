"""A traced graph of another function than its net's is refused, however wide a tolerance it makes."""

import contextlib

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from export.errors import ProofError, TraceError
from export.sources import as_exported, same_answers
from export.sources.same_answers import check_answers
from export_kit import run_here
from file_kit import model, node
from own_net_kit import answers, offer

ROWS = {"x": np.random.default_rng(0).uniform(0.5, 1, (2, 4)).astype(np.float32)}


class Windowed(nn.Module):
    """As speech nets weigh their frames."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x * torch.hamming_window(8))).relu()


def test_a_hamming_window_is_that_of_torch(tmp_path, monkeypatch):
    net = offer(monkeypatch, Windowed)
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", "--input-shape", "1,8")
    assert done.returncode == 0, done.stderr
    rows = np.random.default_rng(0).normal(size=(3, 1, 8)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(answers(tmp_path / "m", {"input": rows})[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"periodic": False},
        {"periodic": True, "alpha": 0.5, "beta": 0.5},
        {"periodic": False, "alpha": 0.6},
    ],
)
@pytest.mark.parametrize("length", [2, 9])
def test_it_is_made_of_hanns(length, options):
    expected = torch.hamming_window(length, dtype=torch.float64, **options)
    found = as_exported._hamming(length, dtype=torch.float64, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("way", ["bundle", "fold"])
def test_as_the_exporter_writes_it_the_net_is_refused(tmp_path, monkeypatch, way):
    """The control: before, its tolerance was 1.6 % of the range, and it was called proved."""
    offer(monkeypatch, Windowed)
    monkeypatch.delitem(as_exported._WORDS, torch.hamming_window)
    monkeypatch.setattr("export.sources.own_numbers._WITHOUT_OP", frozenset())
    to = ("--to", tmp_path / "m") if way == "bundle" else (tmp_path / "out.onnx",)
    done = run_here(way, "mine:make", *to, "--input-shape", "1,8", "--no-proof")
    assert done.returncode == 2
    assert "the traced graph is not the net: 'logits' differs by" in done.stderr
    assert not list(tmp_path.iterdir())


def graph(op: str, *others: object) -> ir.Model:
    """op(x, *constants)."""
    arrays = {f"k{place}": np.float32(number) for place, number in enumerate(others)}
    nodes = [node(op, " ".join(["x", *arrays]), "y", domain="" if op != "Unheard" else "mine")]
    return ir.from_proto(model(nodes, arrays, {"x": ["N", 4]}))


def moved(by: float):
    """A net that answers x + 1, moved by so much."""
    return lambda rows: {"y": rows["x"].astype(np.float64) + 1 + by}


def test_what_float32_rounds_is_no_other_function():
    check_answers(graph("Add", 1), moved(0), moved(1e-7), ROWS)


@pytest.mark.parametrize("by", [1e-4, 1e-2, 10.0])
def test_another_function_is_refused(by):
    with pytest.raises(TraceError, match="the traced graph is not the net: 'y' differs by"):
        check_answers(graph("Add", 1), moved(by), moved(by), ROWS)


def test_as_far_as_the_net_itself_rounds_it_may_differ():
    check_answers(graph("Add", 1), moved(1e-2), moved(0), ROWS)


def test_a_net_that_rounds_less_than_its_graph_is_the_same_in_float64():
    """1 + 2⁻³⁰ − 1 is 0 in float32."""
    nodes = [node("Mul", "x k", "z"), node("Add", "z one", "s"), node("Sub", "s one", "y")]
    arrays = {"k": np.float32(2.0**-30), "one": np.float32(1)}
    made = ir.from_proto(model(nodes, arrays, {"x": ["N", 4]}))
    check_answers(made, *[lambda rows: {"y": rows["x"].astype(np.float64) * 2.0**-30}] * 2, ROWS)


def test_answers_that_cannot_be_compared_say_nothing():
    check_answers(graph("Log"), lambda rows: {"y": np.full((2, 4), np.nan)}, moved(0), ROWS)
    check_answers(graph("Add", 1), *[lambda rows: {"y": np.zeros((2, 5))}] * 2, ROWS)
    check_answers(graph("Unheard"), moved(5), moved(5), ROWS)


@pytest.mark.parametrize(("rounded", "is_refused"), [(1e-2, True), (0.2, False)])
def test_of_what_float64_cannot_compute_much_is_allowed(monkeypatch, rounded, is_refused):
    """1 off, where the net itself is 1 % or 20 % of that off."""

    def never(_: ir.Model) -> None:
        raise ProofError("no such op")

    monkeypatch.setattr(same_answers, "graph_evaluator", never)
    expected = pytest.raises(TraceError) if is_refused else contextlib.nullcontext()
    with expected:
        check_answers(graph("Add", 1), moved(1), moved(1 + rounded), ROWS)
