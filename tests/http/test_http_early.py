"""A long body is refused once its head, or its first 64 KiB, decide that: 60 MB need not arrive first."""

import gzip
import json
from collections.abc import Iterator

import pytest

from in_process_kit import Inside, inside
from service.http.limits import START_BYTES
from service_kit import wait_until
from tiny_nets import digits_net, write_bundle
from wire_kit import get, post, wire

DIGITS = "/v2/models/digits/infer"
LONG = "content-length: 60000000"
GZIP = "content-encoding: gzip"
FORM = "content-type: multipart/form-data; boundary=b"
TENSOR = {
    "name": "input",
    "datatype": "FP32",
    "shape": [1, 1, 28, 28],
    "parameters": {"binary_data_size": 3136},
}
TEXT = json.dumps({"inputs": [TENSOR]}).encode()
FILE = b'--b\r\nContent-Disposition: form-data; name="x"; filename="f"\r\n\r\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    models = tmp_path_factory.mktemp("models")
    write_bundle(models / "digits" / "1", digits_net())
    with inside(models) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "headers", "start", "status", "told"),
    [
        (DIGITS, ["content-encoding: br"], b"", 415, "'br' is not supported"),
        ("/predict", ["content-encoding: br"], b"", 415, "'br' is not supported"),
        ("/v2/models/other/infer", [], b"", 404, "other"),
        (DIGITS, [], b"\0", 400, "unexpected byte at byte 0"),
        (DIGITS, [], b" [1,", 400, "one JSON object"),
        (DIGITS, [], b'{"inputs":[\x01', 400, "unexpected byte at byte 11"),
        (
            DIGITS,
            [GZIP],
            b"\x1f\x8b\x08\x08" + bytes(6) + b"a" * START_BYTES,
            400,
            "16384 bytes have no content",
        ),
        (DIGITS, [GZIP], gzip.compress(b"") * 4000, 400, "64 compressed members"),
        (DIGITS, [GZIP], b"a", 400, "cannot be decompressed"),
        ("/predict", [GZIP], b"a", 400, "cannot be decompressed"),
        (DIGITS, [f"inference-header-content-length: {len(TEXT)}"], TEXT, 400, "additional input data"),
        (DIGITS, ["inference-header-content-length: 0"], b"", 400, "one row has 3136 bytes, got 60000000"),
        (DIGITS, ["inference-header-content-length: 50000000"], TEXT + b"\0", 400, "unexpected byte at byte"),
        ("/predict", [], b"no picture at all", 400, "not a JPEG, PNG or WebP picture"),
        ("/predict", [FORM], FILE + b"no picture at all", 400, "f: the body is not a JPEG"),
        ("/predict", [FORM], b"\r\n--b ", 400, "cannot be read"),
        ("/v2/repository/index", [], b"{".ljust(3 * START_BYTES), 413, "more than 131072 bytes"),
    ],
)
def test_it_is_refused_before_it_is_whole(
    server: Inside, path: str, headers: list[str], start: bytes, status: int, told: str
) -> None:
    head = post(b"", *headers, LONG, path=path, has_length=False)
    with wire(server.port) as line:
        line.send(head)
        if start:
            line.send(start.ljust(START_BYTES))
        answer = line.read()
        assert (answer.status, told in answer.json()["error"]) == (status, True), answer
        assert answer.headers["connection"] == "close"
        line.send(b"a" * 300_000)  # what it still sends is read for a while, or the answer might be lost
    wait_until(lambda: not server.connections(), "nothing is left of it")


def test_a_request_that_waits_for_its_turn_is_refused_at_its_turn(server: Inside) -> None:
    with wire(server.port) as line:
        first, second = get("/v2/health/live"), post(b"", LONG, path=DIGITS, has_length=False)
        line.send(first * 3 + second + bytes(2 * START_BYTES))
        assert [line.read().status for _ in range(4)] == [200, 200, 200, 400]


def test_no_continue_is_said_to_a_request_that_is_refused(server: Inside) -> None:
    with wire(server.port) as line:
        line.send(
            post(
                b"",
                "expect: 100-continue",
                "content-encoding: br",
                "content-length: 9",
                path=DIGITS,
                has_length=False,
            )
        )
        assert line.read().status == 415
