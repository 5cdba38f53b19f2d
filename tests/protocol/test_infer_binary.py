"""Binary tensors: Open Inference Protocol v2, section 6.8, asked of a real server over a real socket.

The numbers in the names are sections of docs/protocol.md; `vector_n` are its conformance vectors, 6.13.
"""

from typing import Any

import httpx
import numpy as np
import pytest

from infer_kit import infer, refused
from service_kit import binary_body, read_answer, x_request
from tiny_nets import digits_net, pair_net


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


@pytest.mark.parametrize("asked", ["all binary", "mixed"])
def test_the_same_head_again_with_other_values(client: httpx.Client, asked: str) -> None:
    """Heads are kept, and with them what is the same in each of their answers; values never are."""
    net = pair_net()
    outputs = [{"name": "sum", "parameters": {"binary_data": True}}]
    if asked == "mixed":
        outputs.append({"name": "product"})
    heads = [{"id": f"{asked} {turn % 2}", "outputs": outputs, "inputs": []} for turn in range(4)]
    for turn, head in enumerate(heads):
        rows = net.rows(2 + turn // 2, seed=turn)
        head["inputs"] = [
            {
                "name": name,
                "shape": list(rows[name].shape),
                "datatype": kind,
                "parameters": {"binary_data_size": rows[name].nbytes},
            }
            for name, kind in (("a", "FP32"), ("b", "INT64"))
        ]
        for factor in (1, 2, 3):
            rows = {name: array * array.dtype.type(factor) for name, array in rows.items()}
            body, headers = binary_body(head, rows["a"].tobytes(), rows["b"].tobytes())
            answer = infer(client, "pair", body, headers=headers)
            told, arrays = read_answer(answer.headers, answer.content)
            assert told["id"] == head["id"]
            expected = {"sum": rows["a"] + rows["b"], "product": rows["a"] * rows["b"]}
            assert list(arrays) == [output["name"] for output in outputs]
            for name, array in arrays.items():
                np.testing.assert_allclose(array, expected[name], rtol=1e-6)


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
