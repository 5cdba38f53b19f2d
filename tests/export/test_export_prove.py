"""The proof and its negative control: a right fold passes, any weight nudged by 1 % fails."""

import numpy as np
import onnx_ir as ir
import pytest

from export.bundle.goldens import make_golden
from export.compute.runtime import load
from export.errors import ProofError
from export.fold.stages import fold
from export.graph.file import serialize
from export.proof.golden import golden_inputs
from export.proof.prove import derive, prove
from export.sources.opening import open_source
from export.sources.source import Source, SourceOptions
from service.contract.manifest import MIN_GOLDEN_ROWS
from service.contract.tensors import TensorSpec
from service.contract.tolerances import FACTOR, ULP, ULPS


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source("nets:everything", SourceOptions(shapes={"": (1, 8, 8)}))


@pytest.fixture(scope="module")
def golden(source):
    return make_golden(source, seed=0, say=lambda text: None)


def nudged(model: ir.Model, name: str) -> ir.Model:
    """A copy with the largest number of one tensor 1 % larger."""
    model = model.clone()
    value = model.graph.initializers[name]
    array = value.const_value.numpy().copy()
    array.flat[np.abs(array).argmax()] *= 1.01
    value.const_value = ir.tensor(array, name=name)
    return model


def test_the_fold_is_proved_within_its_derived_tolerance(source, golden):
    folded, _ = fold(source.graph)
    proof = prove(serialize(source.graph), serialize(folded), golden)
    (tolerance,) = proof.tolerances.values()
    expected = FACTOR * tolerance.unfolded_error + ULPS * ULP * np.abs(golden.outputs["logits"]).max()
    assert tolerance.max_abs == pytest.approx(expected)
    assert proof.folded.worst["logits"] == tolerance.folded_error <= tolerance.max_abs
    assert tolerance.max_abs < 1e-4 * tolerance.output_range, "a tolerance that would hide a bug"


def test_any_weight_nudged_by_one_percent_fails(source, golden):
    folded, _ = fold(source.graph)
    weights = [name for name, value in folded.graph.initializers.items() if value.dtype == ir.DataType.FLOAT]
    assert len(weights) == 10, "five linear ops with a weight and a bias each"
    for name in weights:
        with pytest.raises(ProofError, match="differs from its golden answers"):
            prove(serialize(source.graph), serialize(nudged(folded, name)), golden)


@pytest.mark.parametrize(("times", "passes"), [(3.9, True), (1000.0, False)])
def test_an_error_of_the_runtimes_own_rewrites_counts_up_to_four_times(
    source, golden, monkeypatch, times, passes
):
    """Both graphs, optimised, answer with more noise than either without: 4 · 4 times e_unfolded passes."""
    folded, _ = fold(source.graph)
    plain = serialize(source.graph)
    found = load(plain, optimised=False)(golden.inputs)["logits"]
    error = float(np.abs(found - golden.outputs["logits"]).max())

    def noisy(graph: bytes, *, optimised: bool):
        run = load(graph, optimised=optimised)
        moved = np.float32(error * times * (4 if graph != plain else 1)) if optimised else np.float32(0)
        return lambda rows: {name: answer + moved for name, answer in run(rows).items()}

    monkeypatch.setattr("export.proof.prove.load", noisy)
    if passes:
        (tolerance,) = prove(plain, serialize(folded), golden).tolerances.values()
        assert error < tolerance.unfolded_error <= FACTOR * error
    else:
        with pytest.raises(ProofError, match="differs from its golden answers"):
            prove(plain, serialize(folded), golden)


def test_a_graph_that_answers_zeros_fails(source, golden):
    folded, _ = fold(source.graph)
    for name in list(folded.graph.initializers):
        value = folded.graph.initializers[name]
        if value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(np.zeros_like(value.const_value.numpy()), name=name)
    with pytest.raises(ProofError):
        prove(serialize(source.graph), serialize(folded), golden)


@pytest.mark.parametrize("error", [float("inf"), float("nan")])
def test_no_tolerance_is_derived_from_answers_that_are_not_finite(error):
    with pytest.raises(ProofError, match="not finite"):
        derive(unfolded_error=error, folded_error=0.0, truth=np.ones(3))


def test_no_tolerance_is_so_wide_that_zeros_would_pass():
    with pytest.raises(ProofError, match=r"anything would pass.*--rows FILE\.npz"):
        derive(unfolded_error=0.2, folded_error=0.2, truth=np.ones(3))


def test_golden_rows_hold_what_the_contract_names():
    spec = TensorSpec(name="input", dtype="float32", shape=[None, 1, 4, 4], minimum=-0.5, maximum=2.5)
    held_out = np.random.default_rng(0).uniform(-0.5, 2.5, (60, 1, 4, 4)).astype(np.float32)
    rows = golden_inputs([spec], held_out, seed=0)["input"]
    assert len(rows) >= MIN_GOLDEN_ROWS
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[:24], held_out[:24])
    made = rows[24:].reshape(len(rows) - 24, -1)
    for constant in (0.0, 1.0, -0.5, 2.5):
        assert (made == constant).all(axis=1).any(), f"no row of {constant}"
    assert rows.min() >= -0.5
    assert rows.max() <= 2.5


def test_golden_rows_of_integers_reach_the_ends_of_their_type():
    spec = TensorSpec(name="x", dtype="uint8", shape=[None, 3])
    rows = golden_inputs([spec], None, seed=0)["x"]
    assert (rows.min(), rows.max(), rows.dtype) == (0, 255, np.uint8)
