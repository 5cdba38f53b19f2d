"""A model on a server: what its metadata says, requests made from that, and answers read.

In: a base URL and a model's name.  Out: `Model`, whose requests are valid until a test spoils them.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from conformance.tensors import NOT_IN_JSON, from_bytes, from_json, some_values, to_bytes, to_json
from conformance.wire import Reply

LENGTH = "Inference-Header-Content-Length"
Arrays = dict[str, np.ndarray]


@dataclass
class Request:
    """JSON, and the bytes that stand behind it."""

    document: dict[str, Any]
    tail: bytes = b""

    @property
    def body(self) -> bytes:
        return json.dumps(self.document).encode() + self.tail

    @property
    def headers(self) -> dict[str, str]:
        """As perf_analyzer sends them; the length of the JSON only where an input stands behind it."""
        inputs = self.document.get("inputs", [])
        if not any("binary_data_size" in told.get("parameters", {}) for told in inputs):
            return {"Content-Type": "application/json"}
        length = len(json.dumps(self.document).encode())
        return {"Content-Type": "application/octet-stream", LENGTH: str(length)}

    @property
    def first(self) -> dict[str, Any]:
        """The first input."""
        told: dict[str, Any] = self.document["inputs"][0]
        return told


@dataclass
class Model:
    """One model of the server that is asked."""

    client: httpx.Client
    name: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, client: httpx.Client, name: str) -> Self:
        answer = client.get(f"/v2/models/{quote(name, safe='')}")
        assert answer.status_code == 200, f"no metadata of '{name}': {answer.status_code} {answer.text[:200]}"
        return cls(client, name, answer.json())

    @property
    def path(self) -> str:
        return f"/v2/models/{quote(self.name, safe='')}/infer"

    @property
    def inputs(self) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = self.metadata["inputs"]
        return told

    @property
    def output_names(self) -> list[str]:
        return [told["name"] for told in self.metadata["outputs"]]

    @property
    def has_rows(self) -> bool:
        """Whether every input's first dimension is free."""
        return all(told["shape"] and told["shape"][0] == -1 for told in self.inputs)

    def shape(self, told: dict[str, Any], num_rows: int) -> list[int]:
        """A shape that the input takes: rows first, then 1 wherever it is free."""
        dims = [1 if dim == -1 else int(dim) for dim in told["shape"]]
        return [num_rows, *dims[1:]] if self.has_rows else dims

    def rows(self, num_rows: int = 1, seed: int = 0) -> Arrays:
        return {
            told["name"]: some_values(told["datatype"], self.shape(told, num_rows), seed)
            for told in self.inputs
        }

    def request(self, arrays: Arrays | None = None, *, binary: bool | None = None, **members: Any) -> Request:
        """JSON unless the datatypes allow only bytes; `members` stand in the document as they are."""
        arrays = self.rows() if arrays is None else arrays
        request = Request({"inputs": [], **members})
        for told in self.inputs:
            array = arrays[told["name"]]
            entry = {"name": told["name"], "shape": list(array.shape), "datatype": told["datatype"]}
            if binary or (binary is None and told["datatype"] in NOT_IN_JSON):
                content = to_bytes(array)
                entry["parameters"] = {"binary_data_size": len(content)}
                request.tail += content
            else:
                entry["data"] = to_json(array.ravel())
            request.document["inputs"].append(entry)
        if any(told["datatype"] in NOT_IN_JSON for told in self.metadata["outputs"]):
            request.document.setdefault("parameters", {}).setdefault("binary_data_output", True)
        return request

    def json_request(self, arrays: Arrays | None = None, **members: Any) -> Request:
        """A request whose first input is in JSON; skips where there is none such."""
        if self.inputs[0]["datatype"] in NOT_IN_JSON:
            pytest.skip(f"{self.inputs[0]['datatype']}, the model's datatype, has no JSON")
        return self.request(arrays, **members)

    def send(self, request: Request, **headers: str) -> httpx.Response:
        """Ask."""
        return self.post(request.body, {**request.headers, **headers})

    def post(self, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        """Ask with any body, which is JSON unless the headers say otherwise."""
        told = {"Content-Type": "application/json"} if headers is None else headers
        return self.client.post(self.path, content=body, headers=told)

    def works(self) -> None:
        """A valid request is answered: nothing that came before did harm."""
        answer = self.send(self.request())
        assert answer.status_code == 200, f"the next request: {answer.status_code} {answer.text[:200]}"


def read_answer(headers: Any, body: bytes) -> tuple[dict[str, Any], Arrays]:
    """The JSON of an answer and its outputs, whichever way they came; nothing may be left over."""
    length = headers.get(LENGTH)
    document = json.loads(body if length is None else body[: int(length)])
    tail = b"" if length is None else body[int(length) :]
    arrays: Arrays = {}
    for told in document["outputs"]:
        if "data" in told:
            arrays[told["name"]] = from_json(told["data"], told["datatype"], told["shape"])
            continue
        size = told["parameters"]["binary_data_size"]
        arrays[told["name"]] = from_bytes(tail[:size], told["datatype"], told["shape"])
        tail = tail[size:]
    assert tail == b"", f"{len(tail)} bytes are left over behind the answer's tensors"
    return document, arrays


def error_of(answer: httpx.Response | Reply) -> str:
    """The message of {"error": …}; any other body is a failure."""
    try:
        document = json.loads(answer.content)
    except ValueError:
        document = None
    message = document.get("error") if isinstance(document, dict) else None
    assert isinstance(message, str), f"an error without 'error': {answer.content[:200]!r}"
    assert message, "an error with nothing in 'error'"
    return message


def answered(answer: httpx.Response | Reply) -> tuple[dict[str, Any], Arrays]:
    """What a 200 says."""
    assert answer.status_code == 200, f"{answer.status_code} {answer.content[:300]!r}"
    return read_answer(answer.headers, answer.content)


def same(one: Arrays, other: Arrays) -> None:
    """Two answers hold the same outputs; floats up to what another place in a batch may change."""
    assert one.keys() == other.keys()
    for name in one:
        if one[name].dtype.kind == "f":
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(one[name], other[name])
