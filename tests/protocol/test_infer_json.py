"""JSON tensors: Open Inference Protocol v2, section 6.6 and 6.7, asked of a real server over a real socket.

The numbers in the names are sections of docs/protocol.md; `vector_n` are its conformance vectors, 6.13.
"""

import json
from typing import Any

import httpx
import numpy as np
import pytest

from infer_kit import infer, refused
from service_kit import binary_body, read_answer, x_request
from tiny_nets import digits_net

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


def test_6_6_1_brackets_in_strings_are_not_nesting(client: httpx.Client) -> None:
    document = x_request([1, 2, 3], id='"[{' * 200, unknown=["[" * 300, '\\"[' * 99])
    assert infer(client, "echo-float32", document).status_code == 200


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


def test_6_6_3_unknown_members_are_ignored(client: httpx.Client) -> None:
    document = x_request([1, 2, 3], model_name="other", model_version="9", more={"deep": [None]})
    assert infer(client, "echo-float32", document).json()["model_name"] == "echo-float32"


def test_6_7_floats_print_in_shortest_form(client: httpx.Client) -> None:
    values = np.random.default_rng(5).normal(size=3).astype(np.float32)
    answer = infer(client, "echo-float32", x_request(values.tolist()))
    printed = answer.text.split('"data":[')[1].split("]")[0].split(",")
    assert printed == [np.format_float_positional(value) for value in values]
