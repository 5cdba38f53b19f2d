"""curl, unmodified: what test_service_clients.py leaves. Raw tensors, compression, probes, HEAD."""

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from client_kit import pictures
from service_kit import Server, read_answer, x_request

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")


def curl(*arguments: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of an answer; `status` is among the headers."""
    printed = subprocess.run(["curl", "-sS", "-i", *arguments], capture_output=True, check=True).stdout
    head, _, body = printed.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {**headers, "status": first.split()[1]}, body


def test_a_raw_tensor(server: Server, tmp_path: Path) -> None:
    """6.8: a length of 0 says that the file is one row of the only input."""
    rows, logits = pictures(1, seed=2)
    raw = tmp_path / "row.raw"
    raw.write_bytes(rows.tobytes())
    url = f"{server.url}/v2/models/digits/infer"
    headers, body = curl("-H", "Inference-Header-Content-Length: 0", "--data-binary", f"@{raw}", url)
    assert headers["status"] == "200"
    assert headers["content-type"] == "application/octet-stream"
    np.testing.assert_allclose(read_answer(headers, body)[1]["logits"], logits, atol=1e-4)


def test_json_from_a_file_in_chunks(server: Server, tmp_path: Path) -> None:
    """6.8.6: a chunked body without Content-Length; `-T -` sends one."""
    document = tmp_path / "request.json"
    document.write_text(json.dumps(x_request([1, 2, 3])))
    url = f"{server.url}/v2/models/echo-float32/infer"
    headers, body = curl("-X", "POST", "-H", "Transfer-Encoding: chunked", "-d", f"@{document}", url)
    assert headers["status"] == "200"
    assert json.loads(body)["outputs"][0]["data"] == [1, 2, 3]


def test_a_compressed_request_and_perhaps_a_compressed_answer(server: Server, tmp_path: Path) -> None:
    packed = tmp_path / "request.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(x_request([1, 2, 3])).encode()))
    url = f"{server.url}/v2/models/echo-float32/infer"
    headers, body = curl("--compressed", "-H", "Content-Encoding: gzip", "--data-binary", f"@{packed}", url)
    assert headers["status"] == "200"
    assert json.loads(body)["outputs"][0]["data"] == [1, 2, 3]


def test_a_name_with_a_space(server: Server) -> None:
    """6.1.5: percent-encoded in the URL."""
    url = f"{server.url}/v2/models/a%20model/versions/1/infer"
    headers, body = curl("-d", json.dumps(x_request([1, 2, 3])), url)
    assert (headers["status"], json.loads(body)["model_name"]) == ("200", "a model")


def test_errors_are_json(server: Server) -> None:
    """6.1.3"""
    headers, body = curl("-d", "{", f"{server.url}/v2/models/echo-float32/infer")
    assert (headers["status"], headers["content-type"]) == ("400", "application/json")
    assert json.loads(body)["error"]


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/v2/models/digits/ready"])
def test_probes(server: Server, path: str) -> None:
    """What a container's health check runs: `curl -f` fails on every status from 400 on. HEAD answers too."""
    probe = ["curl", "-fsS", "-o", "/dev/null"]
    assert subprocess.run([*probe, f"{server.url}{path}"], check=False).returncode == 0
    assert subprocess.run([*probe, "--head", f"{server.url}{path}"], check=False).returncode == 0
    failed = subprocess.run([*probe, f"{server.url}/v2/models/no/ready"], capture_output=True, check=False)
    assert failed.returncode == 22


def test_a_request_id_of_its_own(server: Server) -> None:
    """6.7: in the header X-Request-Id, given or made, and never as `id`."""
    url = f"{server.url}/v2/models/echo-float32/infer"
    headers, body = curl("-H", "X-Request-Id: mine-7", "-d", json.dumps(x_request([1, 2, 3])), url)
    assert headers["x-request-id"] == "mine-7"
    assert "id" not in json.loads(body)
    made = {curl("-d", json.dumps(x_request([1, 2, 3])), url)[0]["x-request-id"] for _ in range(2)}
    assert len(made) == 2
