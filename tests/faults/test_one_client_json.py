"""One client's JSON: however many keys, strings or numbers it holds, others are answered meanwhile.

A server with default limits, a client that sends the worst that it may, another that asks for health and one
row at a time.  Times are bounded loosely: without the caps these requests held up everyone for 3 to 90 s.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from neighbour import Neighbour
from service_kit import Server, serving
from tiny_nets import digits_net, write_bundle

MB = 1 << 20
SLOWEST_S = 3.0  # of another client's request, on a busy machine; it was 3 to 93 s
MOST_MEMORY_MB = 512  # over the quiet process

_ROW = b",".join([b"0"] * 784)
_HEAD = b'{"inputs":[{"name":"input","datatype":"FP32","shape":[1,1,28,28],"data":['
INPUT = b'"inputs":[{"name":"input","datatype":"FP32","shape":[1,1,28,28],"data":[' + _ROW + b"]}]"


def keys(count: int) -> bytes:
    return b",".join(b'"%x":0' % index for index in range(count))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    write_bundle(models / "digits" / "1", digits_net())
    with serving(models) as running:
        yield running


def peak_mb(server: Server) -> float:
    """The most memory that the server has held so far."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{" + INPUT + b',"parameters":{' + keys(15_000) + b"}}", 200, ""),
        (b"{" + INPUT + b',"parameters":{' + keys(100_000) + b"}}", 400, "strings, at most 20000"),
        (b"{" + keys(100_000) + b"," + INPUT + b"}", 400, "strings, at most 20000"),
        (_HEAD[:-1] + b"0," * 3 + keys(2), 400, "not JSON"),
        (_HEAD + b'"ab",' * (12 * MB) + b'"ab"]}]}', 400, "strings, at most 20000"),
        (_HEAD + b"1," * (30 * MB) + b"1]}]}", 400, "elements, at most"),
        (_HEAD + b"[1,1,1,1]," * (5 * MB) + b"[1]]}]}", 400, "arrays and objects, at most"),
        (_HEAD + b"[" * (20 * MB), 400, "arrays and objects, at most"),
        (b'{"inputs":[' + b",".join([INPUT[10:-1]] * 30) + b"]}", 400, "already exists"),
    ],
    ids=["keys", "many-keys", "top", "broken", "strings", "numbers", "lists", "open", "inputs"],
)
@pytest.mark.parametrize("is_compressed", [False, True])
def test_its_json_holds_up_no_other_client(
    digits: Server, body: bytes, status: int, message: str, is_compressed: bool
) -> None:
    quiet = peak_mb(digits)
    headers = {"content-encoding": "gzip"} if is_compressed else {}
    content = gzip.compress(body, 1) if is_compressed else body
    with Neighbour(digits.url) as neighbour:
        answer = httpx.post(
            f"{digits.url}/v2/models/digits/infer", content=content, headers=headers, timeout=120
        )
    assert (answer.status_code, message in answer.text) == (status, True), answer.text[:300]
    assert neighbour.failures == []
    assert neighbour.slowest_s < SLOWEST_S
    assert peak_mb(digits) < quiet + MOST_MEMORY_MB
