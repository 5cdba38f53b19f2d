"""The quick way through JSON and the thorough one say the same, whatever the request.

The property: `RequestParser.parse` with and without `quick_document` gives equal tensors, or equal errors.
"""

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import service.protocol.request
from json_requests import DATATYPES, EDGES, WORDS, requests
from service.errors import ServiceError
from service.protocol.quick import quick_document
from service.protocol.request import RequestParser
from service.protocol.signature import Signature, Tensor


def signature_of(datatype: str) -> Signature:
    x = Tensor(name="x", datatype=datatype, row_shape=(2,), size=DATATYPES[datatype])
    y = Tensor(name="y", datatype="FP32", row_shape=(3,), size=4)
    return Signature(name="m", version="1", inputs={"x": x}, outputs={"y": y}, max_rows=8)


PARSERS = {datatype: RequestParser(signature_of(datatype)) for datatype in DATATYPES}


def told(body: bytes, datatype: str) -> Any:
    """What the parser makes of a request: its head and the bytes of its tensors, or its error."""
    try:
        request = PARSERS[datatype].parse(body, None)
    except ServiceError as error:
        return type(error), str(error)
    head = request.head
    given_inputs = [(given.tensor.name, given.shape, given.num_bytes) for given in head.inputs]
    asked = (head.id, head.outputs, head.num_rows, head.timeout_s, head.priority)
    arrays = {
        name: (array.dtype.str, array.shape, array.tobytes()) for name, array in request.tensors.items()
    }
    return given_inputs, asked, arrays


def both_ways(body: bytes, datatype: str) -> tuple[Any, Any]:
    quick = told(body, datatype)
    kept = service.protocol.request.quick_document
    service.protocol.request.quick_document = lambda raw: None
    try:
        return quick, told(body, datatype)
    finally:
        service.protocol.request.quick_document = kept


@settings(max_examples=1500, suppress_health_check=list(HealthCheck))
@given(requests())
def test_both_ways_say_the_same(request: tuple[bytes, str]) -> None:
    quick, thorough = both_ways(*request)
    assert quick == thorough


def x_document(data: str, datatype: str, shape: str = "[1,2]", more: str = "") -> bytes:
    text = f'{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}]{more}}}'
    return text.encode()


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
@pytest.mark.parametrize("word", [*map(str, EDGES), *WORDS])
def test_both_ways_say_the_same_of_every_word(datatype: str, word: str) -> None:
    for data in (
        f"[{word},0]",
        f"[0,{word}]",
        f"[{word},{word}]",
        f"[0.5,{word}]",
        f"[{word}]",
        f"[[{word},1]]",
    ):
        quick, thorough = both_ways(x_document(data, datatype), datatype)
        assert quick == thorough, data


@pytest.mark.parametrize(
    "body",
    [
        x_document("[1,2]", "FP32", more=',"inputs":[]'),
        b'{"inputs":[],"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}',
        x_document('[1,2],"data":[3,4]', "FP32"),
        x_document('[1,2],"name":"z"', "FP32"),
        x_document('[1,2],"shape":[2,2]', "FP32"),
        x_document("[1,2]", "FP32", more=',"id":"a","id":"b"'),
        x_document("[1,2]", "FP32", more=',"id":"["'),
        x_document("[1,2]", "FP32", more=',"unknown":"[["'),
        x_document("[1,2]", "FP32", more=',"parameters":{"timeout":1,"timeout":2}'),
        x_document("[1,2]", "FP32", more=',"parameters":null'),
        x_document("[1,2]", "FP32", more=',"outputs":null'),
        x_document("[1,2]", "FP32", more=',"outputs":[{"name":"y"},{"name":"y"}]'),
        x_document("[1,2]", "FP32", more=',"outputs":[]'),
        x_document("[1,[2]]", "FP32"),
        x_document("[[1],[2]]", "FP32"),
        x_document("[]", "FP32", "[0,2]"),
        x_document('[1,2],"parameters":{"binary_data_size":8}', "FP32"),
        x_document("{}", "FP32"),
        b"\xef\xbb\xbf" + x_document("[1,2]", "FP32"),
        b" " + x_document("[1,2]", "FP32"),
        x_document("[1,2]", "FP32") + b"\x00",
        x_document("[1,2]", "FP32") + b"]",
        b"{",
        b"{}",
        b'{"inputs":[}',
    ],
)
def test_both_ways_say_the_same_of_what_is_odd(body: bytes) -> None:
    quick, thorough = both_ways(body, "FP32")
    assert quick == thorough


CUBE = RequestParser(
    Signature(
        name="m",
        version="1",
        inputs={"x": Tensor(name="x", datatype="FP32", row_shape=(2, 3), size=4)},
        outputs={"y": Tensor(name="y", datatype="FP32", row_shape=(3,), size=4)},
        max_rows=8,
    )
)


def _faulty(draw: Any, level: list[Any]) -> None:
    """One list of a nested one is made wrong: longer, shorter, deeper, flatter, or an element moves on."""
    while type(level[0]) is list and draw(st.booleans()):
        level = draw(st.sampled_from([part for part in level if type(part) is list]))
    at = draw(st.integers(0, len(level) - 1))
    match draw(st.sampled_from(["longer", "shorter", "deeper", "flatter", "moved"])):
        case "longer":
            level.insert(at, level[at])
        case "shorter":
            del level[at]
        case "deeper":
            level[at] = [level[at]]
        case "flatter" if type(level[at]) is list:
            level[at : at + 1] = level[at]
        case "moved" if type(level[at]) is list and at + 1 < len(level) and type(level[at + 1]) is list:
            level[at + 1].append(level[at].pop())


@st.composite
def cubes(draw: Any) -> bytes:
    """Nested data of two or three axes and more, right or wrong in one place."""
    rows = draw(st.integers(1, 3))
    data: Any = np.arange(rows * 6).reshape(rows, 2, 3).tolist()
    if draw(st.booleans()):
        _faulty(draw, data)
    return x_document(json.dumps(data), "FP32", f"[{rows},2,3]")


@settings(max_examples=1000)
@given(cubes())
def test_both_ways_say_the_same_of_nested_data(body: bytes) -> None:
    def read() -> Any:
        try:
            return CUBE.parse(body, None).tensors["x"].tolist()
        except ServiceError as error:
            return str(error)

    quick = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.protocol.request, "quick_document", lambda raw: None)
        assert quick == read()


def test_nested_data_takes_the_quick_way() -> None:
    document = quick_document(x_document("[[[1,2,3],[4,5,6]]]", "FP32", "[1,2,3]"))
    assert document is not None
    assert document["inputs"][0]["data"].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT32", "UINT8", "INT64"])
def test_plain_requests_do_take_the_quick_way(datatype: str) -> None:
    """Otherwise everything above compares the thorough way with itself."""
    more = ',"id":"7","parameters":{"timeout":5},"outputs":[{"name":"y"}]'
    for body in (x_document("[1,2]", datatype), x_document(" [ 1 , 2 ] ", datatype, more=more)):
        document = quick_document(body)
        assert document is not None
        assert isinstance(document["inputs"][0]["data"], np.ndarray)


def test_a_second_request_cannot_change_the_firsts_numbers() -> None:
    parser = PARSERS["FP64"]
    first = parser.parse(x_document("[1.5,2.5]", "FP64"), None).tensors["x"]
    parser.parse(x_document("[7.5,8.5]", "FP64"), None)
    parser.parse(x_document("[7.5,8.5]" + " " * 10_000, "FP64"), None)
    assert first.tolist() == [[1.5, 2.5]]


def test_after_an_error_the_next_request_is_read() -> None:
    for broken in (
        b'{"inputs":[1',
        x_document("[1e400,1]", "FP32"),
        x_document("[1,true]", "INT32"),
        b'{"a":',
    ):
        told(broken, "FP32")
        assert PARSERS["FP32"].parse(x_document("[1,2]", "FP32"), None).tensors["x"].tolist() == [[1, 2]]


def test_threads_do_not_share_what_they_read() -> None:
    together = threading.Barrier(4)

    def read(number: int) -> bool:
        together.wait(30)
        for turn in range(3000):
            document = quick_document(x_document(f"[{number},{turn}]", "FP64"))
            if document is None or document["inputs"][0]["data"].tolist() != [number, turn]:
                return False
        return True

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(read, range(4))) == [True] * 4
    finally:
        sys.setswitchinterval(interval)


def test_a_body_longer_than_what_a_parser_keeps() -> None:
    body = x_document("[1,2]", "FP32", more=f',"unknown":"{"x" * (1 << 20)}"')
    assert both_ways(body, "FP32")[0] == both_ways(x_document("[1,2]", "FP32"), "FP32")[1]
