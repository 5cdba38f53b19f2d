"""What surrounds tensors: encodings, depth, sizes, names, headers, asked of a real server over a real socket.

The numbers in the names are sections of docs/protocol.md; `vector_n` are its conformance vectors, 6.13.
"""

import gzip
import json
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

from infer_kit import infer, refused
from service_kit import binary_body, read_answer, x_request


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_vector_17_compressed_requests(client: httpx.Client, encoding: str, pack: Any) -> None:
    document = json.dumps(x_request([1, 2, 3])).encode()
    headers = {"Content-Encoding": encoding}
    assert infer(client, "echo-float32", pack(document), headers=headers).status_code == 200
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}
    body, length = binary_body({"inputs": [tensor]}, bytes(12))  # N counts decompressed bytes
    assert infer(client, "echo-float32", pack(body), headers={**headers, **length}).status_code == 200
    torn = infer(client, "echo-float32", pack(document)[:-6], headers=headers)
    assert (torn.status_code, "ends too early" in torn.text) == (400, True)
    noise = infer(client, "echo-float32", b"not compressed", headers=headers)
    assert (noise.status_code, "cannot be decompressed" in noise.text) == (400, True)


def test_vector_17_a_zip_bomb_is_too_large(client: httpx.Client) -> None:
    bomb = gzip.compress(bytes(2**27), 9)
    assert len(bomb) < 2**18
    answer = infer(client, "echo-float32", bomb, headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, "once decompressed" in answer.text) == (413, True)


def test_many_compressed_members_are_refused_at_once(client: httpx.Client) -> None:
    """Each member copies what is left of the body: a few MB of empty ones would hold a core for minutes."""
    answer = infer(client, "echo-float32", gzip.compress(b"") * 10_000, headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, "more than 64 compressed members" in answer.text) == (400, True)


def test_a_million_empty_arrays_are_refused_before_they_are_parsed(client: httpx.Client) -> None:
    bomb = gzip.compress(b'{"x":[' + b"[]," * 1_100_000 + b"1]}", 9)
    answer = infer(client, "echo-float32", bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code in (400, 413), answer.text
    assert "arrays and objects" in answer.text


def test_vector_17_unknown_encodings(client: httpx.Client) -> None:
    answer = infer(client, "echo-float32", b"{}", headers={"Content-Encoding": "br"})
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert "'br' is not supported" in answer.json()["error"]


def test_vector_18_no_content_type_is_needed(client: httpx.Client) -> None:
    for content_type in (None, "text/plain", "application/octet-stream", "nonsense"):
        headers = {} if content_type is None else {"Content-Type": content_type}
        assert infer(client, "echo-float32", x_request([1, 2, 3]), headers=headers).status_code == 200


@pytest.mark.parametrize("deep", ["data", "unknown"])
def test_vector_20_nesting_over_100(client: httpx.Client, deep: str) -> None:
    def document(depth: int) -> bytes:
        nested = "[" * depth + "]" * depth
        if deep == "data":
            return json.dumps(x_request("DEEP")).replace('"DEEP"', nested).encode()
        return json.dumps(x_request([1, 2, 3], unknown="DEEP")).replace('"DEEP"', nested).encode()

    outside = 3 if deep == "data" else 1
    refused(client, "echo-float32", document(101 - outside), "nested 101 deep")
    refused(client, "echo-float32", document(100_000), "not JSON")
    if deep == "unknown":
        assert infer(client, "echo-float32", document(100 - outside)).status_code == 200


def test_vector_21_many_rows_are_split(client: httpx.Client) -> None:
    rows = np.arange(300 * 3, dtype=np.float32).reshape(300, 3)
    answer = infer(client, "echo-float32", x_request(rows.ravel().tolist(), shape=[300, 3]))
    assert answer.json()["outputs"][0]["data"] == rows.ravel().tolist()
    too_many = x_request([0] * 3 * 513, shape=[513, 3])
    refused(client, "echo-float32", too_many, "batch-size must be <= 512 for 'echo-float32', got 513")


def test_vector_23_a_timeout_that_passes(client: httpx.Client) -> None:
    answer = infer(client, "echo-float32", x_request([1, 2, 3], parameters={"timeout": 1}))
    assert (answer.status_code, "timeout passed" in answer.json()["error"]) == (504, True)
    assert infer(client, "echo-float32", x_request([1, 2, 3], parameters={"timeout": 0})).status_code == 200
    long = x_request([1, 2, 3], parameters={"timeout": 2**63})
    assert infer(client, "echo-float32", long).status_code == 200


def test_vector_25_answers_that_are_not_finite(client: httpx.Client) -> None:
    answer = infer(client, "log", x_request([0, -1, 1, 2.5], shape=[2, 2]))
    assert b"[-Infinity,NaN,0.0,0.9162907" in answer.content
    output = json.loads(answer.content)["outputs"][0]
    assert output["parameters"] == {"nonfinite": True}
    assert output["data"][3] == pytest.approx(np.log(2.5))
    binary = x_request([0, -1], shape=[1, 2], parameters={"binary_data_output": True})
    answer = infer(client, "log", binary)
    assert np.isneginf(read_answer(answer.headers, answer.content)[1]["y"][0, 0])
    metrics = client.get("/metrics").text
    assert 'foldserve_nonfinite_outputs_total{model="log",version="1"} 1.0' in metrics


@pytest.mark.parametrize("data", [[], None])
def test_vector_26_zero_rows(client: httpx.Client, data: Any) -> None:
    if data is not None:
        answer = infer(client, "echo-float32", x_request(data, shape=[0, 3]))
        assert answer.json()["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [0, 3], "data": []}]
        return
    tensor = {"name": "x", "shape": [0, 3], "datatype": "FP32", "parameters": {"binary_data_size": 0}}
    asked = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    body, headers = binary_body(asked)
    answer = infer(client, "echo-float32", body, headers=headers)
    assert answer.headers["content-type"] == "application/json"  # no binary byte: no header
    assert "inference-header-content-length" not in answer.headers
    assert infer(client, "echo-float32", body).status_code == 200  # legal without the header too


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "one JSON object"),
        (b"null", "one JSON object"),
        (b"{} {}", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b'{"id": "\\ud800"}', ""),
        (b"{}", "Unable to parse 'inputs'"),
        (b'{"inputs": {}}', "Unable to parse 'inputs'"),
        (b'{"inputs": [1]}', "each input must be an object"),
        (b'{"inputs": [{}]}', "needs a 'name'"),
        (b'{"inputs": [{"name": 1}]}', "needs a 'name'"),
        (b'{"inputs": [{"name": "x"}]}', "needs a 'datatype'"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32"}]}', "needs a 'shape'"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": 5}]}', "must be an array"),
        (b'{"inputs": [{"name": "x\\u0000", "datatype": "FP32", "shape": [1], "data": [1]}]}', "unexpected"),
        (b'{"inputs": [], "outputs": 3}', "'outputs'"),
        (b'{"inputs": [], "outputs": [3]}', "'outputs'"),
    ],
)
def test_case_1_malformed_requests(client: httpx.Client, body: bytes, message: str) -> None:
    refused(client, "echo-float32", body, message)


def test_vector_29_and_6_1_5_names_are_percent_decoded(client: httpx.Client) -> None:
    answer = infer(client, "a%20model", x_request([1, 2, 3]))
    assert answer.json()["model_name"] == "a model"
    for missing in ("a%2Fmodel", "nope", "%00", "..", "%2e%2e%2f"):
        answer = infer(client, missing, x_request([1, 2, 3]))
        assert answer.status_code == 404, missing
        assert "error" in answer.json()


def test_case_4_20_mb_of_json(client: httpx.Client) -> None:
    numbers = ",".join(["0.12345678"] * 3 * 600_000)
    body = json.dumps(x_request("HERE", shape=[600_000, 3])).replace('"HERE"', f"[{numbers}]").encode()
    assert len(body) > 19e6
    answer = infer(client, "echo-float32", body)  # refused by its weight, before a number is built
    assert (answer.status_code, "elements, at most 43072 are allowed" in answer.text) == (400, True)
    refused(client, "echo-float32", b'{"inputs": "' + b"x" * 20_000_000 + b'"}', "Unable to parse 'inputs'")


def test_errors_stay_short_however_long_the_name(client: httpx.Client) -> None:
    document = x_request([1, 2, 3])
    document["inputs"][0]["name"] = "n" * 1_000_000
    answer = infer(client, "echo-float32", document)
    assert answer.status_code == 400
    assert len(answer.content) < 5000


def test_6_9_headers_tell_the_version_and_the_time(client: httpx.Client) -> None:
    answer = infer(client, "echo-float32", x_request([1, 2, 3]))
    digest = client.get("/v2/models/echo-float32").json()["properties"]["digest_sha256"]
    assert answer.headers["x-model-digest"] == f"sha256:{digest}"
    assert answer.headers["x-model-version"] == "1"
    timing = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(","))
    assert list(timing) == ["read", "decode", "queue", "compute", "encode", "total"]
    seconds = {phase: float(told) for phase, told in timing.items()}
    assert 0 < seconds["compute"] < seconds["total"]
