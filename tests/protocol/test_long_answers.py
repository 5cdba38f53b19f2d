"""Long answers are made in pieces, in a thread: the same answer, and a client that hangs up harms nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from in_process_kit import Inside, inside
from service.contract.bundle import open_bundle
from service.contract.manifest import Postprocessing
from service.protocol import long_answers, response
from service.protocol.head import Head, RequestedOutput
from service.protocol.long_answers import HOLE, bytes_in_parts, json_in_parts
from service.protocol.response import encode_response, is_long
from service.protocol.signature import Signature, Tensor
from service.routes import infer_call, predict
from service.routes.prediction import Predictions
from service_kit import ROOT, binary_body, read_answer, wait_until, x_request
from tiny_nets import digits_net, echo_net, write_bundle
from wire_kit import post, wire

NUMPY = orjson.OPT_SERIALIZE_NUMPY
WIDE = 4000
INFER = "/v2/models/wide/infer"


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=9), max_size=3))
def test_the_parts_are_the_document(lists: list[list[float]]) -> None:
    arrays = [np.array(numbers, np.float32) for numbers in lists]
    holes = {"id": "a\0\x01b", "arrays": [HOLE] * len(arrays)}
    whole = {"id": "a\0\x01b", "arrays": arrays}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_answers, "PIECE", 2)
        assert b"".join(json_in_parts(holes, arrays)) == orjson.dumps(whole, option=NUMPY)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint64", "bool"])
def test_every_type_prints_as_it_does_whole(dtype: str) -> None:
    array = (np.arange(-40_000, 40_000) / 7).astype(dtype)
    assert b"".join(json_in_parts({"a": HOLE}, [array])) == orjson.dumps({"a": array}, option=NUMPY)
    assert b"".join(bytes_in_parts(array)) == array.tobytes()
    assert b"".join(bytes_in_parts(array.reshape(2, -1).T)) == array.reshape(2, -1).T.tobytes()


def test_what_json_lacks_prints_as_in_short_answers() -> None:
    array = np.array([1.5, np.nan, np.inf, -np.inf, 0.1], np.float32)
    assert json_in_parts({"a": HOLE}, [array])[1:3] == [b"[1.5,NaN,Infinity,-Infinity,0.1", b"]"]


@pytest.mark.parametrize("outputs", [(False, 0), (True, 0), (False, 3), (True, 3)])
def test_long_and_short_answers_are_encoded_alike(
    monkeypatch: pytest.MonkeyPatch, outputs: tuple[bool, int]
) -> None:
    tensor = Tensor(name="y", datatype="FP32", row_shape=(100,), size=4)
    signature = Signature(name="m", version="1", inputs={}, outputs={"y": tensor}, max_rows=9)
    values = {"y": np.random.default_rng(1).normal(size=(9, 100)).astype(np.float32)}

    def encoded() -> tuple[bytes, int | None]:
        head = Head(inputs=[], outputs=[RequestedOutput("y", *outputs)], num_rows=9, id="ü")
        made = encode_response(signature, head, values)
        assert head.answer is None or encode_response(signature, head, values).parts == made.parts
        return b"".join(made.parts), made.header_length

    short = encoded()
    monkeypatch.setattr(response, "LONG", 10)
    monkeypatch.setattr(long_answers, "PIECE", 64)
    assert encoded() == short


def test_work_is_estimated_for_each_kind() -> None:
    def long(size: int, *, is_binary: bool = False, num_classes: int = 0) -> bool:
        head = Head(inputs=[], outputs=[RequestedOutput("y", is_binary, num_classes)], num_rows=1)
        return is_long(head, {"y": np.zeros((1, size), np.float32)})

    assert (long(1000), long(100_000)) == (False, True)
    assert (long(100_000, is_binary=True), long(1_000_000, is_binary=True)) == (False, True)
    assert (long(1000, num_classes=5), long(1000, num_classes=1000)) == (False, True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    models = tmp_path_factory.mktemp("models")
    write_bundle(models / "wide" / "1", echo_net("float32", [WIDE]))
    write_bundle(models / "digits" / "1", digits_net())
    with inside(models) as running:
        yield running


def wide(num_rows: int, **more: Any) -> tuple[np.ndarray, bytes, dict[str, str]]:
    """Rows, and a binary request for them."""
    rows = np.random.default_rng(1).normal(size=(num_rows, WIDE)).astype("<f4")
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32"}
    document = {"inputs": [{**tensor, "parameters": {"binary_data_size": rows.nbytes}}], **more}
    return rows, *binary_body(document, rows.tobytes())


@pytest.mark.parametrize("is_binary", [False, True])
def test_a_long_answer_is_whole_and_the_connection_goes_on(server: Inside, is_binary: bool) -> None:
    rows, content, headers = wide(200, parameters={"binary_data_output": is_binary})
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(2):
            answer = client.post(INFER, content=content, headers=headers)
            assert answer.status_code == 200, answer.text
            assert np.array_equal(read_answer(answer.headers, answer.content)[1]["y"], rows)
        short = client.post(INFER, json=x_request([0.5] * WIDE, shape=[1, WIDE]))
        assert short.json()["outputs"][0]["data"] == [0.5] * WIDE


@pytest.mark.parametrize("fails", [False, True])
def test_a_client_that_hangs_up_meanwhile_harms_no_other(
    server: Inside, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    num_begun = num_left = 0

    def held(*arguments: Any) -> Any:
        nonlocal num_begun, num_left
        num_begun += 1
        wait_until(lambda: not server.connections(), "its client has gone")
        num_left += 1
        if fails:
            raise RuntimeError("planted")
        return encode_response(*arguments)

    monkeypatch.setattr(infer_call, "encode_response", held)
    _, content, headers = wide(20)
    with wire(server.port) as line:
        line.send(post(content, *(f"{name}: {value}" for name, value in headers.items()), path=INFER))
        wait_until(lambda: num_begun == 1, "it is being encoded")
    wait_until(lambda: num_left == 1, "that is over: the next client would be a connection too")
    monkeypatch.undo()
    rows, content, headers = wide(20)
    answer = httpx.post(f"{server.url}{INFER}", content=content, headers=headers)
    assert np.array_equal(read_answer(answer.headers, answer.content)[1]["y"], rows)


def test_an_answer_that_cannot_be_encoded_is_an_error(
    server: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("planted")

    monkeypatch.setattr(infer_call, "encode_response", broken)
    _, content, headers = wide(20)
    answer = httpx.post(f"{server.url}{INFER}", content=content, headers=headers)
    assert (answer.status_code, answer.json()) == (500, {"error": "internal server error"})


def test_predictions_made_in_a_thread_are_the_same(server: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    seven = (ROOT / "docs" / "seven.png").read_bytes()
    inline = httpx.post(f"{server.url}/predict?model=digits", content=seven)
    monkeypatch.setattr(predict, "INLINE_NUMBERS", 0)
    threaded = httpx.post(f"{server.url}/predict?model=digits", content=seven)
    assert (threaded.status_code, threaded.content) == (200, inline.content)


@pytest.mark.parametrize("task", ["embedding", "spatial"])
def test_vectors_and_maps_are_printed_in_parts(tmp_path: Path, task: str) -> None:
    write_bundle(tmp_path / "1", digits_net())
    postprocessing = Postprocessing.model_validate({"task": task, "activation": "none"})
    update = {"labels": None, "postprocessing": postprocessing}
    manifest = open_bundle(tmp_path / "1").manifest.model_copy(update=update)
    answers = np.random.default_rng(1).normal(size=(2, 10)).astype(np.float32)
    parts = Predictions(manifest, ends_in_softmax=False).body(
        {"model_name": "m"}, [{"file": "a"}, {"file": "b"}], answers, 5
    )
    first, second = json.loads(b"".join(parts))["predictions"]
    assert (first["file"], second["file"]) == ("a", "b")
    numbers = second["embedding"] if task == "embedding" else second["output"]["data"]
    assert np.array_equal(np.array(numbers, np.float32), answers[1])
