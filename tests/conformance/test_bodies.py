"""Vectors 17, 18, 30: how a request's body comes, and the connection that it came on."""

import contextlib
import gzip
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from conformance.asking import LENGTH, Model, Request, answered, same
from conformance.wire import Connection

Refused = Callable[..., str]

PACKERS = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("encoding", PACKERS)
def test_vector_17_compressed_requests(model: Model, encoding: str, binary: bool) -> None:
    """6.8: gzip, and deflate as a zlib stream; the length of the JSON counts decompressed bytes."""
    request = model.request(binary=True) if binary else model.json_request()
    headers = {**request.headers, "Content-Encoding": encoding}
    answer = model.post(PACKERS[encoding](request.body), headers)
    same(answered(answer)[1], answered(model.send(request))[1])


def test_vector_17_a_zip_bomb(model: Model, refused: Refused, request: pytest.FixtureRequest) -> None:
    """6.9: more than the limit once decompressed, 413 [US] (Triton: 400). It would be a valid request."""
    asked = model.json_request()
    bomb = gzip.compress(padded(asked, request), 9)
    refused(model.post(bomb, {**asked.headers, "Content-Encoding": "gzip"}), 413, 400)
    model.works()


def padded(asked: Request, request: pytest.FixtureRequest) -> bytes:
    """A valid request whose JSON has so many spaces that it is longer than the limit."""
    limit = int(request.config.getoption("--max-body-mb") * 2**20)
    return asked.body[:1] + b" " * limit + asked.body[1:]


def test_vector_17_a_body_beyond_the_limit(
    url: str, model: Model, refused: Refused, request: pytest.FixtureRequest
) -> None:
    """6.9: 413 [US] (Triton: 400); the server may say so before it has read all."""
    asked = model.json_request()
    with Connection(url) as connection:
        with contextlib.suppress(ConnectionError):
            connection.send("POST", model.path, padded(asked, request), asked.headers)
        refused(connection.receive(), 413, 400)
    model.works()


def test_vector_17_a_body_announced_beyond_the_limit(
    url: str, model: Model, refused: Refused, ours_only: bool, request: pytest.FixtureRequest
) -> None:
    """6.9: ours says so before any of it has come."""
    if not ours_only:
        pytest.skip("needs --our-choices: to refuse before the bytes come is foldserve's choice")
    length = str(len(padded(model.json_request(), request)))
    with Connection(url) as connection:
        connection.send("POST", model.path, headers={"Content-Length": length})
        refused(connection.receive(patience_s=5), 413)


@pytest.mark.parametrize("encoding", ["br", "nonsense"])
def test_vector_17_unknown_encodings(model: Model, refused: Refused, ours_only: bool, encoding: str) -> None:
    """6.8: 415 [US] and what is accepted (Triton: 501)."""
    answer = model.send(model.json_request(), **{"Content-Encoding": encoding})
    refused(answer, 415, 501)
    if ours_only:
        assert answer.headers["accept-encoding"] == "gzip, deflate"
    model.works()


@pytest.mark.parametrize("told", [None, "application/json", "application/octet-stream", "text/plain", "x"])
@pytest.mark.parametrize("binary", [False, True])
def test_vector_18_no_content_type_is_needed(model: Model, told: str | None, binary: bool) -> None:
    """6.1.2: tritonclient sends none, curl its own."""
    request = model.request(binary=True) if binary else model.json_request()
    headers = {name: value for name, value in request.headers.items() if name != "Content-Type"}
    answered(model.post(request.body, headers if told is None else {**headers, "Content-Type": told}))


KINDS = [
    "no JSON",
    "no body",
    "wrong shape",
    "torn tail",
    "wrong length",
    "unknown encoding",
    "not gzip",
    "unknown model",
    "unknown path",
    "wrong method",
]


def spoiled(model: Model, kind: str) -> tuple[str, str, bytes, dict[str, str]]:
    """A request that is refused: method, path, body, headers."""
    request = model.request(binary=kind in ("torn tail", "wrong length"))
    method, path, body, headers = "POST", model.path, request.body, request.headers
    match kind:
        case "no JSON":
            body = b"{"
        case "no body":
            body = b""
        case "wrong shape":
            request.first["shape"] = [1] * 9
            body = request.body
        case "torn tail":
            body = body[:-1]
        case "wrong length":
            headers[LENGTH] = "x"
        case "unknown encoding":
            headers["Content-Encoding"] = "br"
        case "not gzip":
            headers["Content-Encoding"] = "gzip"
        case "unknown model":
            path = "/v2/models/no-such-model/infer"
        case "unknown path":
            path = "/no/such/path"
        case "wrong method":
            path = path.replace("/infer", "/ready")
    return method, path, body, headers


@pytest.mark.parametrize("kind", KINDS)
def test_vector_30_the_connection_is_used_again(
    url: str, model: Model, choose: Callable[..., Any], ours_only: bool, kind: str
) -> None:
    """6.1.1: an error on a kept connection, then a request that works; or the server says that it closes."""
    valid = model.request()
    with Connection(url) as connection:
        for _ in range(2):
            answer = connection.ask(*spoiled(model, kind))
            assert answer.status_code >= 400 or not ours_only  # a server may know this encoding
            if choose("kept" if answer.is_kept else "closes", "kept", "closes") == "closes":
                return
            answered(connection.ask("POST", model.path, valid.body, valid.headers))
