"""Golden rows that the unfolded graph itself does not keep are replaced; no BatchNorm stays for them."""

import threading

import numpy as np
import onnx
import pytest

from export.bundle import folded as folding
from export.errors import ParityError, ProofError
from export.proof import steady
from export.proof.truth import true_answers
from export_kit import run_here
from file_kit import model, node, norm, norm_arrays, weights
from service.contract.bundle import Golden, open_bundle

SILENT = 3


def test_rows_are_unsteady_that_a_bucket_answers_otherwise(monkeypatch):
    """Beyond the tolerance in one place of one bucket, and as the graph is served: the third row."""
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    golden = Golden(inputs={"x": x}, outputs={"y": x.astype(np.float64)})

    def load(graph: bytes, *, optimised: bool):
        def run(inputs):
            moved = np.zeros_like(inputs["x"])
            if optimised and len(moved) == 2:
                moved[(inputs["x"] == x[SILENT]).all(axis=1), 1] = 1e-3
            return {"y": inputs["x"] + moved}

        return run

    monkeypatch.setattr(steady, "load", load)
    assert np.flatnonzero(steady.unsteady_rows(b"", golden, {}, None)).tolist() == [SILENT]
    assert not steady.unsteady_rows(b"", golden, {}, 1).any(), "such a bucket is never served"
    assert not steady.unsteady_rows(b"", golden, {"y": 1e-3}, None).any(), "its own noise is larger"


@pytest.mark.parametrize("is_the_nets_own", [True, False])
def test_unsteady_rows_are_replaced_and_no_batchnorm_is_taken_back(tmp_path, monkeypatch, is_the_nets_own):
    """Rows of zeros fail the proof; where the unfolded graph keeps them, it is the fold's fault."""
    nodes = [node("Conv", "x w", "h"), norm("h", "y")]
    proto = model(nodes, {"w": weights(4, 3, 3, 3), **norm_arrays(4)}, {"x": ["N", 3, 8, 8]})
    onnx.save(proto, tmp_path / "in.onnx")
    prove = folding.prove

    def is_zero(golden: Golden) -> np.ndarray:
        return ~golden.inputs["x"].any(axis=(1, 2, 3))

    def strict(unfolded, made, golden, *others):
        if is_zero(golden).any():
            raise ParityError("a row of zeros differs")
        return prove(unfolded, made, golden, *others)

    monkeypatch.setattr(folding, "prove", strict)
    monkeypatch.setattr(
        folding, "unsteady_rows", lambda _, golden, *others: is_zero(golden) & is_the_nets_own
    )
    done = run_here("bundle", tmp_path / "in.onnx", "--to", tmp_path / "models/net")
    if not is_the_nets_own:
        assert done.returncode == 2
        assert "a row of zeros differs" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    bundle = open_bundle(tmp_path / "models/net/1")
    assert bundle.manifest.fold.folded == 1
    assert bundle.golden.num_rows == 32
    assert not is_zero(bundle.golden).any()


@pytest.mark.parametrize(
    ("max_rows", "max_together", "sizes"),
    [
        (None, None, [5, 5]),
        (4, None, [2, 2, 2, 2, 2]),
        (4, 10, [2, 2, 2, 2, 2]),
        (2, 80, [2] * 5),
        (2, 4, [2, 2]),
        (1, None, [1] * 10),
    ],
)
def test_true_answers_are_computed_at_a_time_within_the_memory_of_a_proof(max_rows, max_together, sizes):
    """In two threads, which wait for each other."""
    both, batches = threading.Barrier(2, timeout=20), []

    def evaluate(rows):
        batches.append(len(rows["x"]))
        if len(batches) <= 10:
            both.wait()
        return {"y": 2 * rows["x"]}

    rows = {"x": np.arange(10.0)[:, np.newaxis]}
    shown: list[int] = []
    most = {"max_rows": max_rows, "max_together": max_together}
    answers = true_answers(evaluate, rows, shown.append, **most, num_threads=2)
    assert batches[10:] == sizes
    assert shown == list(range(1, 11))
    np.testing.assert_array_equal(answers["y"], 2 * rows["x"])
    most["max_rows"] = max(2, max_rows or 2)
    with pytest.raises(ProofError, match="rows are not independent"):
        true_answers(lambda rows: {"y": rows["x"] - rows["x"].mean()}, rows, **most)
