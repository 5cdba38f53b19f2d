"""Every net goes the whole road: trained, folded, proved and served by the commands that a user types."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from test_training_nets_fold import COUNTS, LEFT
from torch import nn

from export_kit import run_here
from service.contract.bundle import Bundle, open_bundle
from service_kit import Server, binary_body, read_answer, serving
from training.__main__ import main
from training.batchnorm.statistics import find_batchnorms
from training.data import DATA_SETS, Split, normalize
from training.nets import NETS
from training.runs.checkpoint import load_checkpoint
from training_kit import SMALLEST, tiny_split, without_pictures

ELSEWHERE = f"{__name__}:two_convs"


def two_convs(*, num_classes: int, input_shape: tuple[int, int, int], width: int) -> nn.Module:
    """A user's own net, for `module:factory`."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], width, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, num_classes, 3, stride=2),
        nn.BatchNorm2d(num_classes),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


NAMES = [*sorted(NETS), ELSEWHERE]
SETTINGS = {**SMALLEST, ELSEWHERE: {"width": "6"}}
FOUND = {**COUNTS, ELSEWHERE: 2}


def served_name(name: str) -> str:
    return re.sub(r"\W", "-", name)


@dataclass(frozen=True)
class Trained:
    checkpoint: Path
    facts: dict[str, Any]
    bundle: Bundle


@pytest.fixture(scope="module")
def tiny() -> Split:
    return tiny_split()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("nets") / "models"


@pytest.fixture(scope="module")
def road(models, tiny) -> dict[str, Trained]:
    """Each net after eight steps, and its bundle."""
    trained = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATA_SETS, "tiny", lambda: tiny)
        without_pictures(patch)
        for name in NAMES:
            out = models.parent / "runs" / served_name(name)
            flags = [f"--net-setting={key}={word}" for key, word in SETTINGS[name].items()]
            flags += ["--epochs", "2", "--batch-size", "50", "--device", "cpu", "--data", "tiny"]
            assert main(["--out", str(out), "--net", name, *flags]) == 0
            checkpoint = out / "checkpoint.pt"
            done = run_here("bundle", checkpoint, "--to", models / served_name(name))
            assert done.returncode == 0, done.stderr
            trained[name] = Trained(
                checkpoint, json.loads(done.stdout), open_bundle(models / served_name(name) / "1")
            )
    return trained


@pytest.fixture(scope="module")
def server(road, models) -> Iterator[Server]:
    with serving(models, "--threads", "1", "--buckets", "1,8") as started:
        yield started


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_net_folds_as_far_as_algebra_lets_it(road, name):
    net = load_checkpoint(road[name].checkpoint).build_net()
    assert len(find_batchnorms(net)) == FOUND[name]
    assert min(norm.weight.min().item() for norm in find_batchnorms(net)) > 0
    left = LEFT["positive"].get(name, {})
    facts = road[name].facts
    assert (facts["found"], facts["folded"]) == (FOUND[name], FOUND[name] - len(left))
    declined = [site for site in road[name].bundle.manifest.fold.sites if site.status != "folded"]
    assert {site.name for site in declined} == set(left)
    for site in declined:
        assert site.reason is not None
        assert site.reason.startswith(left[site.name])


@pytest.mark.parametrize("name", NAMES)
def test_the_service_answers_as_the_unfolded_net_does_in_float64(server, road, tiny, name):
    checkpoint = load_checkpoint(road[name].checkpoint)
    rows = normalize(tiny.held_out_pixels[:20], checkpoint.data)
    with torch.no_grad():
        truth = checkpoint.build_net().double()(rows.double()).numpy()
    tensor = {
        "name": "input",
        "datatype": "FP32",
        "shape": list(rows.shape),
        "parameters": {"binary_data_size": rows.numpy().nbytes},
    }
    body, headers = binary_body(
        {"inputs": [tensor], "parameters": {"binary_data_output": True}}, rows.numpy().tobytes()
    )
    answer = httpx.post(
        f"{server.url}/v2/models/{served_name(name)}/infer", content=body, headers=headers, timeout=60
    )
    assert answer.status_code == 200, answer.text
    logits = read_answer(answer.headers, answer.content)[1]["logits"]
    tolerance = road[name].bundle.manifest.tolerances["logits"].max_abs
    assert np.abs(logits - truth).max() <= tolerance < 1e-3 * np.abs(truth).max()


@pytest.mark.parametrize("name", NAMES)
def test_one_statistic_a_little_off_would_be_seen(road, tiny, name):
    """The negative control: 1 % of a standard deviation in any BatchNorm is more than the tolerance."""
    checkpoint = load_checkpoint(road[name].checkpoint)
    net = checkpoint.build_net().double()
    rows = normalize(tiny.held_out_pixels[:20], checkpoint.data).double()
    tolerance = road[name].bundle.manifest.tolerances["logits"].max_abs
    with torch.no_grad():
        truth = net(rows)
        for norm in find_batchnorms(net):
            off = 0.01 * norm.running_var.sqrt()
            norm.running_mean += off
            assert (net(rows) - truth).abs().max() > 10 * tolerance
            norm.running_mean -= off


@pytest.mark.parametrize("name", NAMES)
def test_training_changed_the_weights_and_the_statistics(road, name):
    """What was folded is no fresh net: its statistics and its γ are its own."""
    checkpoint = load_checkpoint(road[name].checkpoint)
    for norm in find_batchnorms(checkpoint.build_net()):
        assert norm.num_batches_tracked == 8
        assert not torch.equal(norm.running_var, torch.ones_like(norm.running_var))
        assert not torch.equal(norm.weight, torch.ones_like(norm.weight))
