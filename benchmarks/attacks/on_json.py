"""Attacks on POST …/infer: JSON that expands, compressed bodies, binary requests that lie."""

import gzip
import json
import zlib
from collections.abc import Callable

from benchmarks.attacks.attack import INFER, MB, Attack, infer, request, zipped

ROW = b",".join([b"0"] * 784)
HEAD = b'{"inputs":[{"name":"input","datatype":"FP32","shape":[1,1,28,28],"data":['
INPUT = HEAD[1:] + ROW + b"]}]"
MANY_ROWS = 1024  # of the longest request that the model takes


def _keys(count: int) -> bytes:
    return b",".join(b'"%x":0' % index for index in range(count))


def _rows(number: bytes, count: int = MANY_ROWS * 784) -> bytes:
    """The longest valid request, every number of it the same."""
    shape = b"[%d,1,28,28]" % MANY_ROWS
    return HEAD.replace(b"[1,1,28,28]", shape) + (number + b",") * (count - 1) + number + b"]}]}"


def _nested_rows() -> bytes:
    row = b"[[" + b",".join([b"[" + b",".join([b"0.5"] * 28) + b"]"] * 28) + b"]]"
    head = HEAD[:-1].replace(b"[1,1,28,28]", b"[%d,1,28,28]" % MANY_ROWS)
    return head + b"[" + b",".join([row] * MANY_ROWS) + b"]}]}"


def _bomb(codec: str) -> bytes:
    """60 MB of nothing in some 60 kB."""
    return gzip.compress(bytes(60 * MB), 9) if codec == "gzip" else zlib.compress(bytes(60 * MB), 9)


def _empty_blocks(count: int) -> bytes:
    """A deflate stream of empty blocks, each with a table of codes that must be built."""
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = stream.compress(b"{}") + stream.flush(zlib.Z_FULL_FLUSH)
    return head + b"\0\0\0\xff\xff" * count


def _binary(header: str, size: object) -> Attack:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 1, 28, 28]}
    text = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": size}}]}).encode()
    return infer("binary sizes that lie", text + bytes(60 * MB), f"Inference-Header-Content-Length: {header}")


def _codec(name: str, target: str, body: bytes, encoding: str) -> Attack:
    return Attack(name=name, parts=[request(target, body, f"Content-Encoding: {encoding}")])


ATTACKS: dict[str, Callable[[], Attack]] = {
    "keys": lambda: infer("JSON: 15,000 keys", b"{" + INPUT + b',"parameters":{' + _keys(15_000) + b"}}"),
    "many-keys": lambda: infer("JSON: a million keys", b"{" + _keys(MB) + b"," + INPUT + b"}"),
    "same-keys": lambda: infer("JSON: 19,000 times one key", b"{" + b'"a":0,' * 19_000 + INPUT + b"}"),
    "strings": lambda: zipped("JSON: 60 MB of strings", HEAD + b'"ab",' * (12 * MB) + b'"ab"]}]}'),
    "integers": lambda: infer("JSON: 60 MB of integers", HEAD + b"1," * (30 * MB) + b"1]}]}"),
    "lists": lambda: infer("JSON: 5 million lists", HEAD + b"[1,1,1,1]," * (5 * MB) + b"[1]]}]}"),
    "depth": lambda: infer("JSON: 900,000 deep", HEAD + b"[" * 900_000 + b"]" * 900_000 + b"]}]}"),
    "id": lambda: infer("JSON: an id of 60 MB", b'{"id":"' + b"a" * (60 * MB) + b'",' + INPUT + b"}"),
    "escapes": lambda: infer(
        "JSON: an id of 10 million escapes", b'{"id":"' + b"\\u0061" * (10 * MB) + b'",' + INPUT + b"}"
    ),
    "number": lambda: infer("JSON: one number of 60 MB", HEAD + b"1" * (60 * MB) + b"]}]}"),
    "blanks": lambda: infer("JSON: 60 MB of blanks", b"{" + b" " * (60 * MB) + INPUT + b"}"),
    "rows": lambda: infer("JSON: 1024 rows, 15 MB", _rows(b"0.12345678901234567")),
    "long-floats": lambda: infer("JSON: 1024 rows, 60 MB", _rows(b"0." + b"1234567890" * 7 + b"12")),
    "rows-gone": lambda: infer(
        "the same, hanging up", _rows(b"0." + b"1234567890" * 7 + b"12"), hangs_up=True
    ),
    "rows-gzip": lambda: zipped("JSON: 1024 rows, 60 MB", _rows(b"0." + b"1234567890" * 7 + b"12")),
    "too-large": lambda: infer("JSON: 1024 rows of 1e999", _rows(b"1e999")),
    "nested": lambda: infer("JSON: 1024 nested rows, 3 MB", _nested_rows()),
    "not-json": lambda: infer("JSON: 15 MB, broken at its end", _rows(b"0.12345678901234567")[:-1]),
    "gzip-infer": lambda: _codec("gzip bomb for infer", INFER, _bomb("gzip"), "gzip"),
    "gzip-predict": lambda: _codec("gzip bomb for /predict", "/predict", _bomb("gzip"), "gzip"),
    "gzip-index": lambda: _codec("gzip bomb for index", "/v2/repository/index", _bomb("gzip"), "gzip"),
    "deflate": lambda: _codec("deflate bomb for infer", INFER, _bomb("deflate"), "deflate"),
    "members": lambda: _codec(
        "gzip of 60,000 members", INFER, gzip.compress(b"") * 60_000 + bytes(60 * MB), "gzip"
    ),
    "blocks": lambda: _codec("gzip of 12 million empty blocks", INFER, _empty_blocks(12 * MB), "gzip"),
    "gzip-name": lambda: _codec(
        "gzip with a name of 60 MB", INFER, b"\x1f\x8b\x08\x08" + bytes(6) + b"a" * (60 * MB), "gzip"
    ),
    "codings": lambda: _codec("an unknown coding of 60 MB", INFER, bytes(60 * MB), "br, gzip"),
    "binary": lambda: _binary("120", 60 * MB),
    "binary-long": lambda: _binary(str(60 * MB), 3136),
    "half": lambda: Attack(
        name="60 MB of a body, and no more", parts=[request(INFER, bytes(60 * MB))[:-1000]], reads=False
    ),
}
