"""What a picture is answered with, for each task and layout."""

import io

import httpx
import numpy as np
import orjson
import pytest
from PIL import Image

from export_kit import assert_refused, run_here
from picture_kit import FLAGS, save_net
from service.contract.bundle import open_bundle
from service.contract.golden_pictures import row_of
from service.routes.answers import ModelMetadata, PredictAnswer
from service_kit import serving


def png(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("tail", "flags", "keys"),
    [
        ("classes", (), {"label", "probability", "top"}),
        ("classes", ("--task", "multi-label"), {"labels", "top"}),
        ("classes", ("--task", "embedding"), {"embedding"}),
        ("map", (), {"output"}),
    ],
)
def test_answers_have_the_form_of_their_task(tmp_path, tail, flags, keys):
    models = tmp_path / "models"
    done = run_here("bundle", save_net(tmp_path, tail=tail), "--to", models / "net", *FLAGS, *flags)
    assert done.returncode == 0, done.stderr
    manifest = open_bundle(models / "net" / "1").manifest
    content = png((20, 31))
    row = row_of(content, manifest.preprocessing, "float32")
    with serving(models) as server:
        whole = httpx.post(f"{server.url}/predict?row=true", content=content).content
        described = httpx.get(f"{server.url}/v2/models/net").content
        body = {
            "inputs": [
                {"name": "x", "shape": [1, *row.shape], "datatype": "FP32", "data": row.ravel().tolist()}
            ]
        }
        raw = httpx.post(f"{server.url}/v2/models/net/infer", json=body).json()["outputs"][0]["data"]
    (form,) = PredictAnswer.model_validate_json(whole).predictions
    assert type(form).__name__.lower() == manifest.postprocessing.task.replace("-", "")
    answer = orjson.loads(whole)["predictions"][0]
    assert answer.pop("row")["shape"] == [3, 12, 12]
    assert set(answer) == keys
    ModelMetadata.model_validate_json(described)
    facts = orjson.loads(described)
    assert facts["preprocessing"]["resize"]["size"] == [14]
    assert facts["postprocessing"]["task"] == manifest.postprocessing.task
    if tail == "map":
        assert answer["output"]["shape"] == [4, 10, 10]
        np.testing.assert_allclose(answer["output"]["data"], raw, rtol=1e-5)
    elif "embedding" in keys:
        np.testing.assert_allclose(answer["embedding"], raw, rtol=1e-5)
    else:
        logits = np.array(raw)
        expected = 1 / (1 + np.exp(-logits)) if "labels" in keys else np.exp(logits) / np.exp(logits).sum()
        best = answer["top"][0]
        assert int(best["label"]) == int(expected.argmax())
        assert abs(best["probability"] - expected.max()) < 1e-5
        if "labels" in keys:
            assert {int(each["label"]) for each in answer["labels"]} == set(
                np.flatnonzero(expected >= 0.5).tolist()
            )


def test_channels_last_rows_are_served(tmp_path):
    models = tmp_path / "models"
    source = save_net(tmp_path, shape=(12, 12, 3))
    done = run_here("bundle", source, "--to", models / "net", *FLAGS, "--layout", "NHWC", "--channels", "BGR")
    assert done.returncode == 0, done.stderr
    with serving(models) as server:
        assert httpx.post(f"{server.url}/predict", content=png((9, 14))).status_code == 200


def test_a_task_that_contradicts_the_output_is_refused(tmp_path):
    done = run_here("bundle", save_net(tmp_path), "--to", tmp_path / "m", *FLAGS, "--task", "spatial")
    assert_refused(done, "task spatial contradicts 'y', whose row is [4]")
