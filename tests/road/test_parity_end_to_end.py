"""The whole road on real digits: torch, ONNX Runtime and the running service give the same answers.

Within the bundle's tolerance of the unfolded net in float64, one by one and in concurrent batches.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from export_kit import assert_refused, run_here
from service.contract.bundle import Bundle, open_bundle
from service_kit import Server, serving
from training.data import load_split, normalize
from training.runs.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
NUM_ROWS = 500


def run(*arguments: object) -> str:
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Path:
    """A folder with a checkpoint and its bundle, made by the commands that a user types."""
    folder = tmp_path_factory.mktemp("road")
    run("training", "--out", folder / "run", "--epochs", 2)
    facts = json.loads(
        run("export", "bundle", folder / "run" / "checkpoint.pt", "--to", folder / "models" / "digits")
    )
    assert facts["found"] == facts["folded"] > 0
    return folder


@pytest.fixture(scope="module")
def bundle(road) -> Bundle:
    return open_bundle(road / "models" / "digits" / "1")


@pytest.fixture(scope="module")
def rows(road) -> np.ndarray:
    checkpoint = load_checkpoint(road / "run" / "checkpoint.pt")
    split = load_split("digits")
    return normalize(split.held_out_pixels[:NUM_ROWS], checkpoint.data).numpy()


@pytest.fixture(scope="module")
def truth(road, rows) -> np.ndarray:
    """The unfolded net in torch, float64: (N, 10)."""
    net = load_checkpoint(road / "run" / "checkpoint.pt").build_net().double()
    with torch.no_grad():
        return net(torch.from_numpy(rows).double()).numpy()


def test_a_checkpoint_is_folded_and_verified_without_a_bundle(road):
    checkpoint = road / "run" / "checkpoint.pt"
    done = run_here("fold", checkpoint, road / "folded.onnx")
    assert done.returncode == 0, done.stderr
    facts = json.loads(run_here("verify", checkpoint).stdout)
    assert facts["proved"]
    assert facts["folded"] == json.loads(done.stdout)["folded"] == facts["found"] > 0
    assert_refused(run_here("verify", checkpoint, "--input-shape", "1,8,8"), "it brings its own shape")


@pytest.fixture(scope="module")
def server(road) -> Iterator[Server]:
    with serving(road / "models", "--queue-rows", "4096") as started:
        yield started


def assert_same(answers: np.ndarray, truth: np.ndarray, bundle: Bundle) -> None:
    assert answers.shape == truth.shape
    assert np.abs(answers - truth).max() <= bundle.manifest.tolerances["logits"].max_abs
    np.testing.assert_array_equal(answers.argmax(1), truth.argmax(1))


def infer_body(rows: np.ndarray) -> tuple[bytes, dict[str, str]]:
    document = {
        "inputs": [
            {
                "name": "input",
                "datatype": "FP32",
                "shape": list(rows.shape),
                "parameters": {"binary_data_size": rows.nbytes},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(document).encode()
    return head + rows.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def read_logits(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    head = int(response.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(response.content[:head])["outputs"]
    return np.frombuffer(response.content[head:], "<f4").reshape(output["shape"])


def test_the_unfolded_net_in_float32(road, rows, truth, bundle):
    net = load_checkpoint(road / "run" / "checkpoint.pt").build_net()
    with torch.no_grad():
        assert_same(net(torch.from_numpy(rows)).numpy(), truth, bundle)


def test_the_bundle_in_onnxruntime(rows, truth, bundle):
    session = ort.InferenceSession(bundle.graph)
    assert_same(session.run(None, {"input": rows})[0], truth, bundle)


def test_the_service_one_by_one(server, rows, truth, bundle):
    with httpx.Client(base_url=server.url) as client:
        answers = []
        for row in rows[:100]:
            body, headers = infer_body(row[None])
            answers.append(read_logits(client.post("/v2/models/digits/infer", content=body, headers=headers)))
    assert_same(np.concatenate(answers), truth[:100], bundle)


async def test_the_service_in_concurrent_batches_of_mixed_sizes(server, rows, truth, bundle):
    """Each caller gets exactly its own rows: sizes 1…80, over and under the largest bucket, all at once."""
    random = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    while sum(len(part) for part in parts) < 4 * NUM_ROWS:
        parts.append(random.integers(0, NUM_ROWS, size=random.integers(1, 81)))

    async def ask(client: httpx.AsyncClient, part: np.ndarray) -> np.ndarray:
        body, headers = infer_body(rows[part])
        return read_logits(await client.post("/v2/models/digits/infer", content=body, headers=headers))

    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        answered = await asyncio.gather(*(ask(client, part) for part in parts))
    for part, answers in zip(parts, answered, strict=True):
        assert_same(answers, truth[part], bundle)


def test_the_service_on_pictures(server, road, truth):
    """The picture route repeats training's preprocessing: its label is the net's, for every picture."""
    pixels = load_split("digits").held_out_pixels[:40, 0].numpy()
    with httpx.Client(base_url=server.url) as client:
        for picture, expected in zip(pixels, truth, strict=False):
            file = BytesIO()
            Image.fromarray(picture).save(file, "PNG")
            (prediction,) = client.post("/predict", content=file.getvalue()).json()["predictions"]
            softmax = np.exp(expected - expected.max())
            assert prediction["label"] == str(expected.argmax())
            assert prediction["probability"] == pytest.approx(softmax.max() / softmax.sum(), abs=1e-5)


def test_a_nudged_weight_would_be_seen(rows, truth, bundle):
    """The negative control of this file: the same comparison fails where one weight is 1 % off."""
    proto = onnx.load_from_string(bundle.graph)
    weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4)
    array = numpy_helper.to_array(weight).copy()
    array.flat[np.abs(array).argmax()] *= 1.01
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    session = ort.InferenceSession(proto.SerializeToString())
    with pytest.raises(AssertionError):
        assert_same(session.run(None, {"input": rows})[0], truth, bundle)
