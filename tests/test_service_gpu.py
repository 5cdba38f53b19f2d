"""The same proof on an NVIDIA GPU: the CUDA provider really runs, and within the same float32 tolerance.

`make test-gpu` runs these; they skip where there is no GPU.
"""

import numpy as np
import pytest

from service.bundle import open_bundle
from service.engine import EngineConfig, load_engine
from service.session import CUDA, EngineError
from service_kit import serving
from tiny_nets import digits_net, nudged, write_bundle

pytestmark = pytest.mark.gpu


def test_a_bundle_is_proved_on_cuda_with_tf32_off(tmp_path):
    net = digits_net()
    bundle = open_bundle(write_bundle(tmp_path / "digits" / "1", net))
    engine = load_engine(bundle, EngineConfig(device="cuda"))
    assert engine.provider == CUDA
    rows = net.rows(64, seed=1)
    truth = net.truth(rows)["logits"]
    tolerance = bundle.manifest.tolerances["logits"].max_abs
    assert np.abs(engine.run(0, [rows]).answers["logits"] - truth).max() <= tolerance


def test_a_nudged_weight_is_refused_on_cuda(tmp_path):
    net = digits_net()
    bundle = open_bundle(write_bundle(tmp_path / "digits" / "1", net, graph=nudged(net)))
    with pytest.raises(EngineError, match="differs from its golden answers"):
        load_engine(bundle, EngineConfig(device="cuda"))


def test_the_service_says_which_provider_answers(tmp_path):
    write_bundle(tmp_path / "digits" / "1", digits_net())
    with serving(tmp_path, "--device", "cuda") as server:
        assert any(f"provider={CUDA}" in line for line in server.lines)
