"""A row or a picture as a request, in each system's own format.

In: `Samples` and a `Route`.  Out: one `Request` per sample, with its expected answer (see answers.py).

    raw         the row's bytes; bytes back
    oip_binary  Open Inference Protocol v2, binary tensors both ways
    oip_json    the same in JSON
    oip_picture the same, binary, a picture as a BYTES tensor; labels with probabilities back
    json        {"row": [numbers]}; {"logits": [numbers]} back
    rows        {"rows": [[numbers]]}; [[numbers]] back
    base64      {"rows": ["…"]}, the row's bytes; [[numbers]] back
    instances   {"instances": [{"b64": "…"}]}, a picture; labels with probabilities back
    multipart   a form with one file; labels with probabilities back
    form        a form with one file, the row's bytes; bytes back
"""

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import orjson

from benchmarks.serving.answers import Expected, Numbers, Picture, Same, Tail
from benchmarks.serving.samples import Samples

BOUNDARY = "foldserve"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@dataclass(frozen=True)
class Route:
    """The path and wire format of a system; `{model}` in the path is replaced by the model's name."""

    path: str
    wire: str
    field: str = "file"  # of a form


@dataclass(frozen=True)
class Request:
    """A POST: its path, headers and body, and the expected answer."""

    path: str
    headers: dict[str, str]
    body: bytes
    expected: Expected = field(repr=False)

    def raw(self, host: str) -> bytes:
        """The bytes of the HTTP/1.1 request."""
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def requests_for(route: Route, samples: Samples, model: str, timeout_us: int | None = None) -> list[Request]:
    """One request per sample; `timeout_us` is the deadline that a client can set in the protocol v2."""
    path = route.path.format(model=model)
    return WIRES[route.wire](path, samples, route, timeout_us)


def echoed(requests: list[Request]) -> list[Request]:
    """The same bodies, for a server that echoes them."""
    return [Request("/", request.headers, request.body, Same(request.body)) for request in requests]


def _pairs(samples: Samples) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return zip(samples.rows, samples.answers, strict=True)


def _pictures(samples: Samples) -> Iterator[tuple[bytes, Picture]]:
    expected = map(Picture, samples.labels, samples.probabilities)
    return zip(samples.pictures, expected, strict=True)


def _raw(path: str, samples: Samples, route: Route, timeout_us: int | None) -> list[Request]:
    headers = {"Content-Type": "application/octet-stream"}
    return [
        Request(path, headers, row.tobytes(), Tail(answer, samples.tolerance))
        for row, answer in _pairs(samples)
    ]


def _oip_binary(path: str, samples: Samples, route: Route, timeout_us: int | None) -> list[Request]:
    deadline = {} if timeout_us is None else {"timeout": timeout_us}
    requests = []
    for row, answer in _pairs(samples):
        tensor = {
            "name": samples.input_name,
            "shape": [1, *row.shape],
            "datatype": "FP32",
            "parameters": {"binary_data_size": row.nbytes},
        }
        head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True, **deadline}})
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        }
        requests.append(Request(path, headers, head + row.tobytes(), Tail(answer, samples.tolerance)))
    return requests


def _oip_picture(path: str, samples: Samples, route: Route, timeout_us: int | None) -> list[Request]:
    requests = []
    for picture, expected in _pictures(samples):
        content = len(picture).to_bytes(4, "little") + picture
        tensor = {
            "name": route.field,
            "shape": [1, 1],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": len(content)},
        }
        head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        }
        requests.append(Request(path, headers, head + content, expected))
    return requests


def _oip_json(path: str, samples: Samples, route: Route, timeout_us: int | None) -> list[Request]:
    deadline = {} if timeout_us is None else {"parameters": {"timeout": timeout_us}}
    requests = []
    for row, answer in _pairs(samples):
        tensor = {
            "name": samples.input_name,
            "shape": [1, *row.shape],
            "datatype": "FP32",
            "data": row.ravel().tolist(),
        }
        body = orjson.dumps({"inputs": [tensor], **deadline})
        expected = Numbers("data", answer, samples.tolerance)
        requests.append(Request(path, {"Content-Type": "application/json"}, body, expected))
    return requests


def _json(path: str, samples: Samples, route: Route, timeout_us: int | None) -> list[Request]:
    return [
        Request(
            path,
            {"Content-Type": "application/json"},
            orjson.dumps({"row": row.ravel().tolist()}),
            Numbers("logits", answer, samples.tolerance),
        )
        for row, answer in _pairs(samples)
    ]


def _rows(path: str, samples: Samples, route: Route, timeout_us: int | None) -> list[Request]:
    return [_batch_of_one(path, row.ravel().tolist(), answer, samples) for row, answer in _pairs(samples)]


def _base64(path: str, samples: Samples, route: Route, timeout_us: int | None) -> list[Request]:
    return [
        _batch_of_one(path, base64.b64encode(row.tobytes()).decode(), answer, samples)
        for row, answer in _pairs(samples)
    ]


def _batch_of_one(path: str, row: object, answer: np.ndarray, samples: Samples) -> Request:
    body = orjson.dumps({"rows": [row]})
    return Request(path, {"Content-Type": "application/json"}, body, Numbers("", answer, samples.tolerance))


def _instances(path: str, samples: Samples, route: Route, timeout_us: int | None) -> list[Request]:
    return [
        Request(
            path,
            {"Content-Type": "application/json"},
            orjson.dumps({"instances": [{"b64": base64.b64encode(picture).decode()}]}),
            expected,
        )
        for picture, expected in _pictures(samples)
    ]


def _multipart(path: str, samples: Samples, route: Route, timeout_us: int | None) -> list[Request]:
    return [
        Request(path, FORM, _form(route.field, "picture.jpg", picture), expected)
        for picture, expected in _pictures(samples)
    ]


def _form_row(path: str, samples: Samples, route: Route, timeout_us: int | None) -> list[Request]:
    return [
        Request(path, FORM, _form(route.field, "row.bin", row.tobytes()), Tail(answer, samples.tolerance))
        for row, answer in _pairs(samples)
    ]


def _form(name: str, file: str, content: bytes) -> bytes:
    kind = "image/jpeg" if file.endswith(".jpg") else "application/octet-stream"
    head = f'Content-Disposition: form-data; name="{name}"; filename="{file}"\r\nContent-Type: {kind}\r\n\r\n'
    return f"--{BOUNDARY}\r\n{head}".encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


WIRES: dict[str, Callable[[str, Samples, Route, int | None], list[Request]]] = {
    "raw": _raw,
    "oip_binary": _oip_binary,
    "oip_json": _oip_json,
    "oip_picture": _oip_picture,
    "json": _json,
    "rows": _rows,
    "base64": _base64,
    "instances": _instances,
    "multipart": _multipart,
    "form": _form_row,
}
