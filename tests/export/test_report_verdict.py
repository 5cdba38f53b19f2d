"""What a report says of the fold: its first sentences, and the ranges of weights."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from export.bundle.verdict import accuracies, verdict
from export.bundle.weight_ranges import weight_ranges
from export.proof.prove import Proof
from onnx_graphs import graph


def fold(found: int, folded: int, reduced: int = 0, chains: int = 0) -> Any:
    counts = {"found": found, "folded": folded, "reduced": reduced, "declined": found - folded - reduced}
    return SimpleNamespace(**counts, per_channel=[None] * chains, per_channel_folded=chains)


def proof(worst: float, max_abs: float = 1.0) -> Any:
    tolerances: Any = {"y": SimpleNamespace(max_abs=max_abs)}
    measured: Any = SimpleNamespace(worst={"y": worst})
    return Proof(unfolded=measured, folded=measured, tolerances=tolerances)


@pytest.mark.parametrize(
    ("account", "sentence"),
    [
        (fold(35, 35), "35 of 35 BatchNorms are folded away."),
        (fold(1, 1), "The BatchNorm is folded away."),
        (fold(1, 0), "No BatchNorm is folded away, 1 stayed, for the reasons below."),
        (
            fold(5, 3, 1),
            "3 of 5 BatchNorms are folded away, 1 became an Add each, 1 stayed, for the reasons below.",
        ),
        (fold(0, 0, chains=2), "2 of 2 per-channel Mul/Add, which act as BatchNorms, are folded away."),
        (
            fold(2, 2, chains=1),
            "2 of 2 BatchNorms are folded away. "
            "1 of 1 per-channel Mul/Add, which act as BatchNorms, are folded away.",
        ),
        (fold(0, 0), "The net has no BatchNorm: nothing was folded, and the graph is served as it is."),
    ],
)
def test_what_became_of_the_batchnorms(account: Any, sentence: str) -> None:
    assert verdict(account, proof(0.2), 38)[0] == sentence


@pytest.mark.parametrize(
    ("worst", "max_abs", "words"),
    [(0.2, 1.0, "1/5 of"), (0.0, 0.0, "none of"), (0.9, 1.0, "90 % of"), (1e-9, 1e-6, "1/1000 of")],
)
def test_how_near_the_answers_are(worst: float, max_abs: float, words: str) -> None:
    told = verdict(fold(1, 1), proof(worst, max_abs), 38)[1]
    assert "Its answers to 38 golden rows are the unfolded net's" in told
    assert told.endswith(f"of 'y', is {words} what is allowed.")


def test_golden_pictures_are_in_the_verdict() -> None:
    assert len(verdict(fold(1, 1), proof(0.2), 38)) == 2
    assert verdict(fold(1, 1), proof(0.2), 38, 12)[2].startswith("Its 12 golden pictures become the rows")


def test_accuracies_are_those_that_the_source_knows() -> None:
    assert accuracies({"held_out_accuracy": 0.977, "epoch": 6}) == {"right of the held-out rows": 0.977}
    assert accuracies({}) == {}


def linear(name: str, weights: np.ndarray) -> ir.Model:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name=name)]
    return ir.from_proto(graph(nodes, {"w": weights}, ["N", 2], dtype=np.float32))


def test_ranges_of_weights_before_and_after() -> None:
    weights = np.array([[1.0, -2.0], [0.5, 0.0]])
    (own,) = weight_ranges(linear("fc", weights), linear("fc", -3 * weights))
    assert (own.before, own.after, own.growth, own.shape) == ((-2.0, 1.0), (-3.0, 6.0), 3.0, (2, 2))
    (new,) = weight_ranges(linear("fc", weights), linear("other", weights))
    assert (new.before, new.growth) == (None, None)
    (zero,) = weight_ranges(linear("fc", 0 * weights), linear("fc", weights))
    assert zero.growth is None
