"""Clients that others wrote, unmodified: tritonclient and curl."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from service_kit import Server, every_net, serving
from tiny_nets import digits_net, pair_net


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(every_net(tmp_path_factory.mktemp("clients") / "models")) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as opened:
        yield opened


def given(name: str, array: np.ndarray, datatype: str, *, is_binary: bool) -> Any:
    tensor = triton.InferInput(name, array.shape, datatype)
    tensor.set_data_from_numpy(array, binary_data=is_binary)
    return tensor


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("a model")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["name"] == "foldserve"
    assert client.get_model_metadata("digits", "1")["inputs"][0]["shape"] == [-1, 1, 28, 28]


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("asks_binary", [True, False, None])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_infer(client: Any, is_binary: bool, asks_binary: bool | None, compression: str | None) -> None:
    rows = pair_net().rows(5, seed=1)
    inputs = [
        given("a", rows["a"], "FP32", is_binary=is_binary),
        given("b", rows["b"], "INT64", is_binary=not is_binary),
    ]
    outputs = None
    if asks_binary is not None:
        outputs = [triton.InferRequestedOutput(name, binary_data=asks_binary) for name in ("sum", "product")]
    for _ in range(2):  # inputs are used again
        answer = client.infer(
            "pair",
            inputs,
            outputs=outputs,
            request_id="seven",
            timeout=10**7,
            priority=1,
            request_compression_algorithm=compression,
        )
        assert answer.get_response()["id"] == "seven"
        np.testing.assert_allclose(answer.as_numpy("sum"), rows["a"] + rows["b"], rtol=1e-6)
        np.testing.assert_allclose(answer.as_numpy("product"), rows["a"] * rows["b"], rtol=1e-6)


def test_errors_carry_our_status_and_message(client: Any) -> None:
    tensor = given("input", np.zeros((1, 3), np.float32), "FP32", is_binary=True)
    with pytest.raises(InferenceServerException) as refused:
        client.infer("digits", [tensor])
    assert refused.value.status() == "400"
    assert "unexpected shape for input 'input'" in refused.value.message()
    with pytest.raises(InferenceServerException, match="unknown model"):
        client.infer("nope", [tensor])


def test_concurrent_clients_get_their_own_rows(server: Server) -> None:
    net = digits_net()

    def ask(seed: int) -> float:
        rows = net.rows(1 + seed % 7, seed=seed)
        with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            answer = client.infer("digits", [given("input", rows["input"], "FP32", is_binary=seed % 2 == 0)])
        return float(np.abs(answer.as_numpy("logits") - net.truth(rows)["logits"]).max())

    with ThreadPoolExecutor(16) as threads:
        assert max(threads.map(ask, range(200))) < 1e-4


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(server: Server, tmp_path: Path) -> None:
    def curl(*arguments: str) -> bytes:
        return subprocess.run(["curl", "-sS", *arguments], capture_output=True, check=True).stdout

    url = f"{server.url}/v2/models/echo-float32/infer"
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32"}
    told = curl("-d", json.dumps({"inputs": [{**tensor, "data": [1, 2, 3]}]}), url)
    assert json.loads(told)["outputs"][0]["data"] == [1, 2, 3]
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 12}}]}).encode()
    body = tmp_path / "body"
    body.write_bytes(head + np.array([1, 2, 3], "<f4").tobytes())
    told = curl("-H", f"Inference-Header-Content-Length: {len(head)}", "--data-binary", f"@{body}", url)
    assert json.loads(told)["outputs"][0]["data"] == [1, 2, 3]
