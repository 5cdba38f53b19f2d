"""Open Inference Protocol v2, sections 6.6 to 6.8, asked of a real server over a real socket.

The numbers in the names are those of shared/oip-v2.md; `vector_n` are its conformance vectors, 6.13.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service_kit import Server, binary_body, digits_net, every_net, pair_net, read_answer, serving, x_request

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models: Path = every_net(tmp_path_factory.mktemp("infer") / "models")
    with serving(models, "--max-body-mb", "30", "--queue-rows", "512") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def infer(client: httpx.Client, model: str, document: Any, **options: Any) -> httpx.Response:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return client.post(f"/v2/models/{model}/infer", content=content, **options)


def refused(client: httpx.Client, model: str, document: Any, message: str, status: int = 400) -> None:
    """The error says `message`, and the next request on the same connection works."""
    answer = infer(client, model, document)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert message in answer.json()["error"]
    assert infer(client, "echo-float32", x_request([1, 2, 3])).status_code == 200


def test_6_6_answers_are_the_nets(client: httpx.Client) -> None:
    net = digits_net()
    rows = net.rows(5, seed=1)
    document = {
        "inputs": [
            {"name": "input", "shape": [5, 1, 28, 28], "datatype": "FP32", "data": rows["input"].tolist()}
        ]
    }
    answer = infer(client, "digits", document)
    told, arrays = read_answer(answer.headers, answer.content)
    assert told["model_name"] == "digits"
    assert told["model_version"] == "1"
    assert "id" not in told
    np.testing.assert_allclose(arrays["logits"], net.truth(rows)["logits"], atol=1e-4)


def test_vector_3_flat_equals_nested(client: httpx.Client) -> None:
    flat = infer(client, "echo-float32", x_request([1, 2, 3, 4, 5, 6], shape=[2, 3]))
    nested = infer(client, "echo-float32", x_request([[1, 2, 3], [4, 5, 6]], shape=[2, 3]))
    assert flat.json() == nested.json()
    assert flat.json()["outputs"][0]["data"] == [1, 2, 3, 4, 5, 6]  # 6.7: flat


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([[1, 2], [3, 4], [5, 6]], "3 parts along axis 0"),
        ([[1, 2, 3], [4, 5]], "2 parts along axis 1"),
        ([[1, 2, 3], 4], "not nested as its shape"),
        ([[[1, 2, 3]], [[4, 5, 6]]], "1 parts along axis 1"),
        ([[1, 2, 3], [4, 5, [6]]], "got an array"),
    ],
)
def test_vector_4_wrong_nesting(client: httpx.Client, data: Any, message: str) -> None:
    refused(client, "echo-float32", x_request(data, shape=[2, 3]), message)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_vector_5_a_shape_that_lies(client: httpx.Client, count: int) -> None:
    refused(client, "echo-float32", x_request([1.0] * count), f"has {count} elements")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([-1, 3], "negative dimension"),
        ([2**62, 3], "too large"),
        ([2**60 + 2, 3], "too large"),
        ([2**63, 3], "too large"),
        ([2**40, 3], "batch-size must be <= 512"),
        ([512, 3], "has 1 elements"),
        ([1, 3, 1], "Expected [-1, 3], got [1, 3, 1]"),
        ([3], "Expected [-1, 3], got [3]"),
        ([], "Expected [-1, 3], got []"),
        ([2**62] * 5000, "unexpected shape"),
        ([1, 3.0], "array of integers"),
        ([True, 3], "array of integers"),
        ("13", "array of integers"),
        (None, "array of integers"),
    ],
)
def test_vector_6_impossible_shapes(client: httpx.Client, shape: Any, message: str) -> None:
    document = {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": [1]}]}
    refused(client, "echo-float32", document, message)


@pytest.mark.parametrize("dtype", DATATYPES)
def test_vector_7_every_datatype_makes_the_round_trip(client: httpx.Client, dtype: str) -> None:
    datatype = DATATYPES[dtype]
    sent = _extremes(dtype)
    shape = list(sent.shape)
    tensor = {"name": "x", "shape": shape, "datatype": datatype}
    size = {"binary_data_size": sent.nbytes}
    body, headers = binary_body(
        {"inputs": [{**tensor, "parameters": size}], "parameters": {"binary_data_output": True}},
        sent.tobytes(),
    )
    answer = infer(client, f"echo-{dtype}", body, headers=headers)
    np.testing.assert_array_equal(read_answer(answer.headers, answer.content)[1]["y"], sent)
    if datatype == "FP16":
        return
    answer = infer(client, f"echo-{dtype}", {"inputs": [{**tensor, "data": sent.tolist()}]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["datatype"] == datatype
    np.testing.assert_array_equal(read_answer(answer.headers, answer.content)[1]["y"], sent)


def _extremes(dtype: str) -> np.ndarray:
    if dtype == "bool":
        return np.array([[True, False, True]])
    limits = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
    return np.array([[limits.min, limits.max, 1], [0, 1, 2]], dtype)


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("uint8", 256, "out of range"),
        ("uint8", -1, "out of range"),
        ("uint8", 1.5, "must be integers, got 1.5"),
        ("uint8", 1.0, "must be integers, got 1.0"),
        ("uint8", True, "must be numbers, got true or false"),
        ("uint8", "1", "must be integers, got a string"),
        ("uint8", None, "must be integers, got null"),
        ("uint8", {}, "must be integers, got an object"),
        ("int8", 128, "out of range"),
        ("int16", -(2**15) - 1, "out of range"),
        ("int32", 2**31, "out of range"),
        ("int64", 2**63, "out of range"),
        ("float32", "1", "must be numbers, got a string"),
        ("float32", True, "must be numbers, got true or false"),
        ("float32", None, "must be numbers, got null"),
        ("float32", 1e39, "out of range"),
        ("float64", [1], "must be numbers, got an array"),
        ("bool", 1, "must be true or false"),
        ("bool", "true", "must be true or false"),
    ],
)
def test_vector_8_elements_of_the_wrong_kind(
    client: httpx.Client, dtype: str, value: Any, message: str
) -> None:
    other = False if dtype == "bool" else 0
    refused(client, f"echo-{dtype}", x_request([other, other, value], DATATYPES[dtype]), message)


def test_6_6_11_integers_are_fine_for_floats(client: httpx.Client) -> None:
    assert infer(client, "echo-float64", x_request([1, 2, 3], "FP64")).json()["outputs"][0]["data"] == [
        1,
        2,
        3,
    ]


def test_6_6_11_nan_is_not_json(client: httpx.Client) -> None:
    for literal in (b"NaN", b"Infinity", b"-Infinity"):
        body = json.dumps(x_request([1, 2, 3])).encode().replace(b"3]}", literal + b"]}")
        refused(client, "echo-float32", body, "binary data format")


def test_vector_9_fp16_only_as_bytes(client: httpx.Client) -> None:
    refused(client, "echo-float16", x_request([1, 2, 3], "FP16"), "FP16 data via JSON is not supported")
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP16", "parameters": {"binary_data_size": 6}}
    body, headers = binary_body({"inputs": [tensor]}, np.ones(3, "<f2").tobytes())
    answer = infer(client, "echo-float16", body, headers=headers)
    assert answer.status_code == 400
    assert "sending FP16 data via JSON is not supported" in answer.json()["error"]


def test_vector_10_the_id_comes_back(client: httpx.Client) -> None:
    assert infer(client, "echo-float32", x_request([1, 2, 3], id="é\n42")).json()["id"] == "é\n42"
    assert infer(client, "echo-float32", x_request([1, 2, 3], id="")).json()["id"] == ""
    assert "id" not in infer(client, "echo-float32", x_request([1, 2, 3])).json()
    for wrong in (42, None):
        refused(client, "echo-float32", x_request([1, 2, 3], id=wrong), "'id' must be a string")


PAIR = {
    "inputs": [
        {"name": "a", "shape": [1, 2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]},
        {"name": "b", "shape": [1, 2, 2], "datatype": "INT64", "data": [5, 6, 7, 8]},
    ]
}


def test_vector_11_outputs_as_asked(client: httpx.Client) -> None:
    def names(*asked: str) -> list[str]:
        answer = infer(client, "pair", {**PAIR, "outputs": [{"name": name} for name in asked]})
        return [output["name"] for output in answer.json()["outputs"]]

    assert names() == ["product", "sum"]
    assert names("sum") == ["sum"]
    assert names("sum", "product") == ["sum", "product"]
    twice = {**PAIR, "outputs": [{"name": "sum"}, {"name": "sum"}]}
    refused(client, "pair", twice, "output 'sum' already exists in request")
    unknown = {**PAIR, "outputs": [{"name": "y"}]}
    refused(client, "pair", unknown, "unexpected inference output 'y' for model 'pair'")


def test_6_6_6_the_inputs_are_the_models(client: httpx.Client) -> None:
    a, b = PAIR["inputs"]
    refused(client, "pair", {"inputs": [a]}, "expected 2 inputs but got 1")
    refused(client, "pair", {"inputs": [a, b, a]}, "input 'a' already exists in request")
    refused(client, "pair", {"inputs": [a, {**b, "name": "x"}]}, "unexpected inference input 'x'")
    refused(client, "pair", {"inputs": []}, "expected 2 inputs but got 0")


def test_6_6_7_the_datatype_is_the_models(client: httpx.Client) -> None:
    message = "inference input 'x' data-type is 'FP64', but model 'echo-float32' expects 'FP32'"
    refused(client, "echo-float32", x_request([1, 2, 3], "FP64"), message)
    refused(client, "echo-float32", x_request([1, 2, 3], "float32"), "needs a 'datatype'")
    refused(client, "echo-float32", x_request(["a"] * 3, "BYTES"), "data-type is 'BYTES'")


def test_6_6_8_rows_must_agree(client: httpx.Client) -> None:
    a, b = PAIR["inputs"]
    two = {**b, "shape": [2, 2, 2], "data": [1] * 8}
    refused(client, "pair", {"inputs": [a, two]}, "disagree on the number of rows: [1, 2]")


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_vector_12_json_and_binary_inputs_mix(client: httpx.Client, order: tuple[str, str]) -> None:
    rows = pair_net().rows(3, seed=2)
    a, b = rows["a"], rows["b"]
    given = {
        "a": {
            "name": "a",
            "shape": [3, 2, 2],
            "datatype": "FP32",
            "parameters": {"binary_data_size": a.nbytes},
        },
        "b": {"name": "b", "shape": [3, 2, 2], "datatype": "INT64", "data": b.tolist()},
    }
    document = {
        "inputs": [given[name] for name in order],
        "outputs": [{"name": "sum", "parameters": {"binary_data": True}}, {"name": "product"}],
    }
    body, headers = binary_body(document, a.tobytes())
    answer = infer(client, "pair", body, headers=headers)
    told, arrays = read_answer(answer.headers, answer.content)
    assert ["data" in output for output in told["outputs"]] == [False, True]
    np.testing.assert_allclose(arrays["sum"], a + b)
    np.testing.assert_allclose(arrays["product"], a * b, rtol=1e-6)


def test_6_8_3_two_binary_tensors_in_order(client: httpx.Client) -> None:
    rows = pair_net().rows(70, seed=3)  # more than the largest bucket: split and put together
    inputs = [
        {
            "name": name,
            "shape": [70, 2, 2],
            "datatype": kind,
            "parameters": {"binary_data_size": rows[name].nbytes},
        }
        for name, kind in (("b", "INT64"), ("a", "FP32"))
    ]
    body, headers = binary_body(
        {"inputs": inputs, "parameters": {"binary_data_output": True}},
        rows["b"].tobytes(),
        rows["a"].tobytes(),
    )
    answer = infer(client, "pair", body, headers=headers)
    arrays = read_answer(answer.headers, answer.content)[1]
    np.testing.assert_allclose(arrays["product"], rows["a"] * rows["b"], rtol=1e-6)


def test_vector_13_lengths_of_the_json(client: httpx.Client) -> None:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}
    body, headers = binary_body({"inputs": [tensor]}, np.ones(3, "<f4").tobytes())
    length = "Inference-Header-Content-Length"
    assert infer(client, "echo-float32", body, headers=headers).status_code == 200

    def error(value: str | None, content: bytes = body) -> str:
        answer = infer(
            client,
            "echo-float32",
            content,
            headers={} if value is None else {length: value.encode("latin-1")},
        )
        assert answer.status_code == 400
        return str(answer.json()["error"])

    assert "not JSON" in error(None)  # the tail is not JSON
    assert "Infer-Header-Content-Length" in error(None, body[: int(headers[length])])
    assert "one row has 12 bytes" in error("0")
    assert "in range (0, " in error("-1")
    assert "in range (0, " in error(str(len(body) + 1))
    assert "in range (0, " in error(str(2**40))
    assert "in range (0, " in error("9" * 300)
    for text in ("x", "", "1.5", "0x10", "1_0", "+", "-", "²"):
        assert "Unable to parse Inference-Header-Content-Length" in error(text)
    assert infer(client, "echo-float32", body, headers=headers).status_code == 200


def test_vector_14_the_tail_is_exactly_the_tensors(client: httpx.Client) -> None:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}
    for _ in range(2):  # the head is kept once it was checked, its tail never is
        for change, message in (
            (-1, "unexpected size for input 'x', expecting 1 additional bytes for model 'echo-float32'"),
            (1, "unexpected additional input data for model 'echo-float32'"),
        ):
            body, headers = binary_body({"inputs": [tensor]}, bytes(12 + change))
            answer = infer(client, "echo-float32", body, headers=headers)
            assert (answer.status_code, message) == (400, answer.json()["error"])
        body, headers = binary_body({"inputs": [tensor]}, bytes(12))
        assert infer(client, "echo-float32", body, headers=headers).status_code == 200


@pytest.mark.parametrize("size", [11, 13, -1, True, 12.0, "12", None, 2**70])
def test_6_8_4_binary_data_size_is_the_shapes(client: httpx.Client, size: Any) -> None:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    body, headers = binary_body({"inputs": [tensor]}, bytes(12))
    assert infer(client, "echo-float32", body, headers=headers).status_code == 400


def test_6_8_5_bool_bytes_are_0_or_1(client: httpx.Client) -> None:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "BOOL", "parameters": {"binary_data_size": 3}}
    body, headers = binary_body({"inputs": [tensor]}, b"\x00\x01\x02")
    answer = infer(client, "echo-bool", body, headers=headers)
    assert (answer.status_code, "0 or 1, got 2" in answer.text) == (400, True)


def test_vector_15_data_comes_from_one_place(client: httpx.Client) -> None:
    both = x_request([1, 2, 3])
    both["inputs"][0]["parameters"] = {"binary_data_size": 12}
    refused(client, "echo-float32", both, "Input must set only one of the following fields")
    neither = x_request([1, 2, 3])
    del neither["inputs"][0]["data"]
    refused(client, "echo-float32", neither, "Input must set only one of the following fields")
    shared = {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"shared_memory_region": "r"}}
    refused(client, "echo-float32", {"inputs": [shared]}, "shared memory, which is not supported")


@pytest.mark.parametrize(
    ("all_binary", "flag", "is_binary"),
    [
        (True, None, True),
        (True, "listed", True),
        (True, True, True),
        (True, False, False),
        (False, None, False),
        (False, "listed", False),
        (False, True, True),
        (False, False, False),
        (None, True, True),
        (None, None, False),
    ],
)
def test_vector_16_which_outputs_are_binary(
    client: httpx.Client, all_binary: bool | None, flag: bool | str | None, is_binary: bool
) -> None:
    document = x_request([1, 2, 3])
    if all_binary is not None:
        document["parameters"] = {"binary_data_output": all_binary}
    if flag is not None:
        parameters = {} if flag == "listed" else {"parameters": {"binary_data": flag}}
        document["outputs"] = [{"name": "y", **parameters}]
    answer = infer(client, "echo-float32", document)
    output = read_answer(answer.headers, answer.content)[0]["outputs"][0]
    assert ("data" not in output) == is_binary
    assert ("inference-header-content-length" in answer.headers) == is_binary
    expected = "application/octet-stream" if is_binary else "application/json"
    assert answer.headers["content-type"] == expected


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


def test_6_6_1_brackets_in_strings_are_not_nesting(client: httpx.Client) -> None:
    document = x_request([1, 2, 3], id='"[{' * 200, unknown=["[" * 300, '\\"[' * 99])
    assert infer(client, "echo-float32", document).status_code == 200


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


def test_vector_27_parameters(client: httpx.Client) -> None:
    def asked(**parameters: Any) -> dict[str, Any]:
        return x_request([1, 2, 3], parameters=parameters)

    assert infer(client, "echo-float32", asked(mine="x", other=1.5, third=True)).status_code == 200
    assert infer(client, "echo-float32", asked(priority=2, timeout=10**9)).status_code == 200
    refused(client, "echo-float32", asked(triton_x="y"), "'triton_'")
    refused(client, "echo-float32", asked(sequence_id=1), "not supported")
    refused(client, "echo-float32", asked(mine=[1]), "must be a string, a number or a boolean")
    refused(client, "echo-float32", asked(mine=None), "must be a string, a number or a boolean")
    for wrong in (-1, 1.5, "1", True, 2**64):
        refused(client, "echo-float32", asked(timeout=wrong), "Unable to parse 'timeout'")
        refused(client, "echo-float32", asked(priority=wrong), "Unable to parse 'priority'")
    refused(client, "echo-float32", asked(binary_data_output="yes"), "Unable to parse 'binary_data_output'")
    refused(client, "echo-float32", x_request([1, 2, 3], parameters=[]), "'parameters' of the request")
    listed = x_request([1, 2, 3], outputs=[{"name": "y", "parameters": {"binary_data": 1}}])
    refused(client, "echo-float32", listed, "Unable to parse 'binary_data'")
    classes = x_request([1, 2, 3], outputs=[{"name": "y", "parameters": {"classification": 2}}])
    refused(client, "echo-float32", classes, "classification", status=501)


def test_6_6_3_unknown_members_are_ignored(client: httpx.Client) -> None:
    document = x_request([1, 2, 3], model_name="other", model_version="9", more={"deep": [None]})
    assert infer(client, "echo-float32", document).json()["model_name"] == "echo-float32"


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


def test_6_8_raw_binary(client: httpx.Client) -> None:
    row = digits_net().rows(1, seed=4)
    headers = {"Inference-Header-Content-Length": "0"}
    answer = infer(client, "digits", row["input"].tobytes(), headers=headers)
    logits = read_answer(answer.headers, answer.content)[1]["logits"]
    np.testing.assert_allclose(logits, digits_net().truth(row)["logits"], atol=1e-4)
    short = infer(client, "digits", row["input"].tobytes()[:-1], headers=headers)
    assert (short.status_code, "one row has 3136 bytes" in short.text) == (400, True)
    two = infer(client, "pair", bytes(16), headers=headers)
    assert "Raw request must only have 1 input" in two.json()["error"]


def test_6_7_floats_print_in_shortest_form(client: httpx.Client) -> None:
    values = np.random.default_rng(5).normal(size=3).astype(np.float32)
    answer = infer(client, "echo-float32", x_request(values.tolist()))
    printed = answer.text.split('"data":[')[1].split("]")[0].split(",")
    assert printed == [np.format_float_positional(value) for value in values]


def test_case_4_20_mb_of_json(client: httpx.Client) -> None:
    numbers = ",".join(["0.12345678"] * 3 * 600_000)
    body = json.dumps(x_request("HERE", shape=[600_000, 3])).replace('"HERE"', f"[{numbers}]").encode()
    assert len(body) > 19e6
    answer = infer(client, "echo-float32", body)  # parsed, and then refused for its rows
    assert (answer.status_code, "batch-size must be <= 512" in answer.text) == (400, True)
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
    assert answer.headers["server-timing"].startswith("queue;dur=")
