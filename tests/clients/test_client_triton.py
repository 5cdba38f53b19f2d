"""tritonclient.http, unmodified: what test_service_clients.py leaves. docs/protocol.md, 6.12."""

import gzip
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from client_kit import given, pictures
from service_kit import Server, every_net, serving
from tiny_nets import digits_net


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = every_net(tmp_path_factory.mktemp("triton") / "models")
    with serving(models, "--queue-rows", "256") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as opened:
        yield opened


@pytest.mark.parametrize("asked", ["gzip", "deflate"])
@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("is_binary", [True, False])
def test_compression_both_ways(client: Any, sent: str | None, asked: str, is_binary: bool) -> None:
    """6.8: the answer may be compressed if that is asked for; then, too, its header counts what is inside."""
    rows, logits = pictures(7)
    answer = client.infer(
        "digits",
        [given("input", rows, "FP32", is_binary=is_binary)],
        outputs=[triton.InferRequestedOutput("logits", binary_data=is_binary)],
        request_compression_algorithm=sent,
        response_compression_algorithm=asked,
    )
    np.testing.assert_allclose(answer.as_numpy("logits"), logits, atol=1e-4)


@pytest.mark.parametrize("is_binary", [True, False])
def test_an_input_is_used_again_with_other_data(client: Any, is_binary: bool) -> None:
    tensor = triton.InferInput("input", [2, 1, 28, 28], "FP32")
    for seed in range(4):
        rows, logits = pictures(2, seed)
        tensor.set_data_from_numpy(rows, binary_data=is_binary)
        answer = client.infer("digits", [tensor])
        np.testing.assert_allclose(answer.as_numpy("logits"), logits, atol=1e-4)


def test_many_under_way_at_once(server: Server) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=8) as client:
        asked = []
        for seed in range(32):
            rows, logits = pictures(1 + seed % 3, seed)
            inputs = [given("input", rows, "FP32", is_binary=True)]
            asked.append((client.async_infer("digits", inputs, priority=seed % 4, timeout=10**8), logits))
        for pending, logits in asked:
            np.testing.assert_allclose(pending.get_result().as_numpy("logits"), logits, atol=1e-4)


@pytest.mark.parametrize(("model", "version", "status"), [("nope", "", "404"), ("digits", "99", "404")])
def test_what_is_unknown(client: Any, model: str, version: str, status: str) -> None:
    tensor = given("input", pictures(1)[0], "FP32", is_binary=True)
    for ask in (
        lambda: client.infer(model, [tensor], model_version=version),
        lambda: client.get_model_metadata(model, version),
        lambda: client.get_model_config(model, version),
        lambda: client.get_inference_statistics(model, version),
    ):
        with pytest.raises(InferenceServerException, match="unknown model") as refused:
            ask()
        assert refused.value.status() == status


def test_a_timeout_of_a_microsecond_is_504(client: Any) -> None:
    """6.9, 6.10.4: `timeout` is in microseconds; the exception carries our status."""
    rows, logits = pictures(1)
    tensor = given("input", rows, "FP32", is_binary=True)
    with pytest.raises(InferenceServerException, match="timeout") as refused:
        client.infer("digits", [tensor], timeout=1)
    assert refused.value.status() == "504"
    answer = client.infer("digits", [tensor], timeout=60 * 10**6)
    np.testing.assert_allclose(answer.as_numpy("logits"), logits, atol=1e-4)


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize(("asked", "told"), [(1, 1), (3, 3), (10, 10), (99, 10)])
def test_classification(client: Any, asked: int, told: int, is_binary: bool) -> None:
    """6.10.5: "<value>:<index>:<label>", the largest first, at most as many as there are classes."""
    rows, logits = pictures(5, seed=3)
    answer = client.infer(
        "digits",
        [given("input", rows, "FP32", is_binary=True)],
        outputs=[triton.InferRequestedOutput("logits", binary_data=is_binary, class_count=asked)],
    )
    assert answer.get_output("logits")["datatype"] == "BYTES"
    classes = answer.as_numpy("logits")
    assert classes.shape == (5, told)
    labels = digits_net().labels
    for row, expected in zip(classes, logits, strict=True):
        parts = [(word if isinstance(word, str) else word.decode()).split(":") for word in row]
        indices = [int(index) for _, index, _ in parts]
        assert indices == np.argsort(-expected, kind="stable")[:told].tolist()
        assert [label for *_, label in parts] == [labels[index] for index in indices]
        np.testing.assert_allclose([float(value) for value, *_ in parts], expected[indices], atol=1e-4)


def test_classes_without_labels(client: Any) -> None:
    """6.10.5: "<value>:<index>" where the model names no classes."""
    rows = np.array([[0.5, 3.25, -1.0]], np.float32)
    answer = client.infer(
        "echo-float32",
        [given("x", rows, "FP32", is_binary=True)],
        outputs=[triton.InferRequestedOutput("y", class_count=2)],
    )
    parts = [word.decode().split(":") for word in answer.as_numpy("y")[0]]
    assert [(float(value), int(index)) for value, index in parts] == [(3.25, 1), (0.5, 0)]


def test_bodies_made_and_read_without_a_connection(server: Server) -> None:
    """The client's static halves, with another HTTP client between them."""
    rows, logits = pictures(3, seed=5)
    body, length = triton.InferenceServerClient.generate_request_body(
        [given("input", rows, "FP32", is_binary=True)], outputs=[triton.InferRequestedOutput("logits")]
    )
    for pack, encoding in ((bytes, None), (gzip.compress, "gzip"), (zlib.compress, "deflate")):
        headers = {"Inference-Header-Content-Length": str(length)}
        if encoding is not None:
            headers["Content-Encoding"] = encoding
        answer = httpx.post(f"{server.url}/v2/models/digits/infer", content=pack(body), headers=headers)
        told = triton.InferenceServerClient.parse_response_body(
            answer.content, header_length=int(answer.headers["inference-header-content-length"])
        )
        np.testing.assert_allclose(told.as_numpy("logits"), logits, atol=1e-4)
