"""How much work a fold is, counted: what is computed once is not computed again."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.compute import evaluator, runtime
from export.fold.gauges import plan as planning
from export.fold.gauges.offsets import Offsets
from export.fold.stages import fold
from export.graph.prepare import prepare
from export_kit import run_here
from file_kit import model, node, norm, norm_arrays, weights
from gauge_kit import Net
from service.contract.bundle import Golden
from service.contract.parity import BUCKETS, measure


@pytest.fixture
def work(monkeypatch):
    """How often a graph is run in float64, and how many sessions of ONNX Runtime are made."""
    counted = {"evaluations": 0, "sessions": 0}
    run, session = evaluator.Evaluator.run, runtime.ort.InferenceSession

    def evaluate(self, *arguments, **options):
        counted["evaluations"] += 1
        return run(self, *arguments, **options)

    def open_session(*arguments, **options):
        counted["sessions"] += 1
        return session(*arguments, **options)

    monkeypatch.setattr(evaluator.Evaluator, "run", evaluate)
    monkeypatch.setattr(runtime.ort, "InferenceSession", open_session)
    return counted


@pytest.mark.parametrize(
    ("has_norm", "expected"),
    [
        (False, {"evaluations": 0, "sessions": 1}),
        # The file as it is checked, as it was read, as it is prepared; and both graphs in the proof.
        (True, {"evaluations": 1, "sessions": 5}),
    ],
    ids=["nothing to fold", "a BatchNorm"],
)
def test_the_truth_is_computed_once(tmp_path, work, has_norm, expected):
    nodes = [node("Conv", "x w", "h"), norm("h", "y") if has_norm else node("Relu", "h", "y")]
    arrays = {"w": weights(4, 3, 3, 3), **(norm_arrays(4) if has_norm else {})}
    onnx.save(model(nodes, arrays, {"x": ["N", 3, 8, 8]}), tmp_path / "in.onnx")
    done = run_here("fold", tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert done.returncode == 0, done.stderr
    assert work == expected


def test_no_batch_of_golden_rows_is_run_twice():
    """The bucket of 1 row is one by one; of 32 golden rows, that of 32 is all together."""
    batches = []
    rows = np.arange(32.0)[:, np.newaxis]
    golden = Golden(inputs={"x": rows}, outputs={"y": rows})
    parity = measure(lambda inputs: batches.append(tuple(inputs["x"].ravel())) or {"y": inputs["x"]}, golden)
    assert len(batches) == len(set(batches)) == 32 + 16 + 8 + 4 + 2 + 1 + 1
    assert list(parity.buckets) == list(BUCKETS)
    assert parity.worst == {"y": 0.0}


def dense(layers: int, growth: int = 4, smallest_gamma: float = 0.5) -> tuple[ir.Model, int]:
    """A dense block of `layers`, and how many channels its BatchNorms have in all."""
    net, channels, normed = Net(seed=0), 8, 0
    x = net.conv("x", 3, channels)
    for layer in range(layers):
        y = net.op("Relu", net.norm(x, channels, positive=True))
        net.arrays[f"bn{layer}.gamma"][-1] = smallest_gamma
        y = net.conv(y, channels, growth, 3, 3, pads=[1] * 4)
        x, normed, channels = net.op("Concat", x, y, axis=1), normed + channels, channels + growth
    return prepare(ir.from_proto(net.model(["rows", 3, 4, 4], net.conv(x, channels, 2)))), normed


@pytest.mark.parametrize("smallest_gamma", [0.5, 1e-5])
def test_what_is_solved_for_grows_with_the_channels_alone(monkeypatch, smallest_gamma):
    """One of many that read a tensor goes at a time, and a tiny γ takes it back: no plan for each of them."""
    offsets, plans = [], []
    require, plan = Offsets.require, planning._plan
    monkeypatch.setattr(Offsets, "require", lambda *given: offsets.append(1) or require(*given))
    monkeypatch.setattr(planning, "_plan", lambda *given: plans.append(1) or plan(*given))
    graph, channels = dense(24, smallest_gamma=smallest_gamma)
    _, sites = fold(graph)
    assert len(sites) == 24
    assert 1 <= len(plans) <= 3
    assert 0 < len(offsets) <= 9 * channels
