"""The classification extension (6.10.5), from the strings alone to a real server's answer."""

import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from in_process_kit import Inside, inside
from service.protocol.classification import bytes_of, classes_of
from service_kit import x_request
from tiny_nets import digits_net, echo_net, pair_net, write_bundle

LABELS = ["cat", "dog", "e:l:k"]


def told(
    values: Any, count: int, labels: list[str] | None = None, dtype: Any = np.float32
) -> list[list[str]]:
    strings: list[list[str]] = classes_of(np.array(values, dtype), count, labels).tolist()
    return strings


def test_the_largest_come_first_with_index_and_label() -> None:
    assert told([[0.5, 11.25, -3]], 3, LABELS) == [["11.25:1:dog", "0.5:0:cat", "-3.0:2:e:l:k"]]
    assert told([[0.5, 11.25, -3]], 2) == [["11.25:1", "0.5:0"]]


def test_rows_do_not_mix() -> None:
    assert told([[1, 2, 3], [3, 2, 1]], 1) == [["3.0:2"], ["3.0:0"]]


def test_equal_values_keep_the_classes_order() -> None:
    order = [*range(0, 1000, 2), *range(1, 1000, 2)]
    assert told([[7, 3] * 500], 1000) == [[f"{3 if index % 2 else 7}.0:{index}" for index in order]]
    assert told([[0.0, -0.0]], 2) == [["0.0:0", "-0.0:1"]]


def test_labels_that_do_not_fit_are_left_out() -> None:
    assert told([[1, 2]], 1, LABELS) == [["2.0:1"]]


def test_float32_prints_as_float32() -> None:
    value = float(np.float32(0.1))
    assert told([[value]], 1) == [["0.1:0"]]
    assert told([[value]], 1, dtype=np.float64) == [[f"{value!r}:0"]]


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (np.uint8, [0, 255, 128], ["255:1", "128:2", "0:0"]),
        (np.int8, [-128, 127, 0], ["127:1", "0:2", "-128:0"]),
        (np.int64, [-(2**63), 2**63 - 1, 0], [f"{2**63 - 1}:1", "0:2", f"{-(2**63)}:0"]),
        (np.int64, [2**53, 2**53 + 1, 2**53 - 1], [f"{2**53 + 1}:1", f"{2**53}:0", f"{2**53 - 1}:2"]),
        (np.float16, [0.5, -2, 1.5], ["1.5:2", "0.5:0", "-2.0:1"]),
        (np.float32, [-np.inf, np.inf, 1], ["inf:1", "1.0:2", "-inf:0"]),
    ],
)
def test_every_datatype_is_ordered_by_value(dtype: Any, values: list[Any], expected: list[str]) -> None:
    assert told([values], 3, dtype=dtype) == [expected]


def test_nan_is_never_the_first() -> None:
    assert told([[np.nan, 1, np.nan, 2]], 4)[0][:2] == ["2.0:3", "1.0:1"]


def test_bytes_have_their_length_in_front() -> None:
    strings = np.array([["a", "ü"], ["", "xyz"]], object)
    assert bytes_of(strings) == b"\1\0\0\0a\2\0\0\0\xc3\xbc\0\0\0\0\3\0\0\0xyz"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    models = tmp_path_factory.mktemp("classes")
    write_bundle(models / "digits" / "1", digits_net())
    write_bundle(models / "echo" / "1", echo_net("float32"))
    write_bundle(models / "half" / "1", echo_net("float16"))
    write_bundle(models / "pair" / "1", pair_net())
    with inside(models, "--lanes", "1", "--shutdown-timeout-s", "2") as running:
        yield running


def ask(server: Inside, document: dict[str, Any], name: str = "echo", **parameters: Any) -> httpx.Response:
    output = {"name": "logits" if name == "digits" else "y", "parameters": parameters}
    return httpx.post(f"{server.url}/v2/models/{name}/infer", json={**document, "outputs": [output]})


def test_6_10_5_in_json(server: Inside) -> None:
    output = ask(server, x_request([1, 3, 2, 9, 8, 7], shape=[2, 3]), classification=2).json()["outputs"][0]
    assert output == {
        "name": "y",
        "datatype": "BYTES",
        "shape": [2, 2],
        "data": ["3.0:1", "2.0:2", "9.0:0", "8.0:1"],
    }


def test_6_10_5_labels_of_the_model(server: Inside) -> None:
    net = digits_net()
    rows = net.rows(1, seed=3)
    tensor = {
        "name": "input",
        "shape": [1, 1, 28, 28],
        "datatype": "FP32",
        "data": rows["input"].ravel().tolist(),
    }
    output = ask(server, {"inputs": [tensor]}, "digits", classification=10).json()["outputs"][0]
    order = np.argsort(-net.truth(rows)["logits"][0])
    assert [string.split(":")[1:] for string in output["data"]] == [[str(k), str(k)] for k in order]
    found = [float(string.split(":")[0]) for string in output["data"]]
    np.testing.assert_allclose(found, net.truth(rows)["logits"][0][order], atol=1e-4)


def test_6_10_5_more_than_there_are_is_all(server: Inside) -> None:
    for asked in (3, 4, 2**63):
        assert ask(server, x_request([1, 2, 3]), classification=asked).json()["outputs"][0]["shape"] == [1, 3]


def test_6_10_5_in_binary(server: Inside) -> None:
    answer = ask(server, x_request([1, 3, 2]), classification=2, binary_data=True)
    length = int(answer.headers["inference-header-content-length"])
    output = json.loads(answer.content[:length])["outputs"][0]
    tail = b"".join(struct.pack("<I", 5) + text for text in (b"3.0:1", b"2.0:2"))
    assert answer.content[length:] == tail
    assert output == {
        "name": "y",
        "datatype": "BYTES",
        "shape": [1, 2],
        "parameters": {"binary_data_size": len(tail)},
    }


def test_6_10_5_of_half_precision_may_be_json(server: Inside) -> None:
    raw = np.array([1, 3, 2], np.float16).tobytes()
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP16", "parameters": {"binary_data_size": 6}}
    outputs = [{"name": "y", "parameters": {"classification": 1}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    answer = httpx.post(
        f"{server.url}/v2/models/half/infer",
        content=head + raw,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    assert answer.json()["outputs"][0]["data"] == ["3.0:1"]


def test_6_10_5_of_no_rows(server: Inside) -> None:
    output = ask(server, x_request([], shape=[0, 3]), classification=2).json()["outputs"][0]
    assert (output["shape"], output["data"]) == ([0, 2], [])


@pytest.mark.parametrize("asked", [0, -1, 1.5, "2", True, None, 2**64])
def test_6_10_5_a_wrong_number_is_400(server: Inside, asked: Any) -> None:
    answer = ask(server, x_request([1, 2, 3]), classification=asked)
    assert (answer.status_code, "classification" in answer.json()["error"]) == (400, True)


def test_6_10_5_needs_one_value_per_class(server: Inside) -> None:
    inputs = [
        {"name": "a", "shape": [1, 2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]},
        {"name": "b", "shape": [1, 2, 2], "datatype": "INT64", "data": [1, 2, 3, 4]},
    ]
    asked = [{"name": "sum", "parameters": {"classification": 1}}]
    answer = httpx.post(f"{server.url}/v2/models/pair/infer", json={"inputs": inputs, "outputs": asked})
    assert (answer.status_code, "one value per class" in answer.json()["error"]) == (400, True)
