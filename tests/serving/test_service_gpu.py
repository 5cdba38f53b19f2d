"""The same proof on an NVIDIA GPU: the CUDA provider really runs, and within the same float32 tolerance.

`make test-gpu` runs these; they skip where there is no GPU.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.contract.bundle import open_bundle
from service.engine.engine import Engine, EngineConfig, load_engine
from service.engine.plan import open_lanes
from service.engine.session import CUDA, EngineError, SessionPlan
from service_kit import serving
from tiny_nets import digits_net, nudged, write_bundle

pytestmark = pytest.mark.gpu

BUCKETS = (1, 4, 16)


def test_a_bundle_is_proved_on_cuda_with_tf32_off(tmp_path):
    net = digits_net()
    bundle = open_bundle(write_bundle(tmp_path / "digits" / "1", net))
    engine = load_engine(bundle, EngineConfig(device="cuda"))
    assert engine.provider == CUDA
    rows = net.rows(64, seed=1)
    truth = net.truth(rows)["logits"]
    tolerance = bundle.manifest.tolerances["logits"].max_abs
    assert np.abs(engine.run(0, [rows]).answers["logits"] - truth).max() <= tolerance


@pytest.mark.parametrize("has_graphs", [False, True])
def test_lanes_answer_their_own_rows_at_once(tmp_path, has_graphs):
    """A captured graph is replayed on new rows, by two lanes at once; never with the rows of its capture."""
    net = digits_net()
    bundle = open_bundle(write_bundle(tmp_path / "digits" / "1", net))
    plan = SessionPlan(lanes=2, has_cuda_graphs=has_graphs)
    lanes = open_lanes(bundle.graph, bundle.manifest, CUDA, plan, BUCKETS[-1])
    engine = Engine(lanes, bundle.manifest, plan, BUCKETS, CUDA)
    tolerance = bundle.manifest.tolerances["logits"].max_abs

    def worst(lane: int) -> float:
        differences = []
        for seed in range(20):
            rows = net.rows(1 + seed % 16, seed=100 * lane + seed)
            answers = engine.run(lane, [rows]).answers["logits"]
            differences.append(np.abs(answers - net.truth(rows)["logits"]).max())
        return max(differences)

    with ThreadPoolExecutor(2) as threads:
        assert max(threads.map(worst, (0, 1))) <= tolerance


def test_a_nudged_weight_is_refused_on_cuda(tmp_path):
    net = digits_net()
    bundle = open_bundle(write_bundle(tmp_path / "digits" / "1", net, graph=nudged(net)))
    with pytest.raises(EngineError, match="differs from its golden answers"):
        load_engine(bundle, EngineConfig(device="cuda"))


def test_the_service_says_which_provider_answers(tmp_path):
    write_bundle(tmp_path / "digits" / "1", digits_net())
    with serving(tmp_path, "--device", "cuda") as server:
        assert any(f"provider={CUDA}" in line for line in server.lines)
