"""Long answers, made in pieces: no other thread runs while one piece is made, for about a millisecond.

In: a document with a HOLE wherever a long array of numbers belongs, and these arrays in order.
Out: the document's JSON in parts.

orjson holds the interpreter's lock from the first number to the last, in whichever thread it runs.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson

HOLE = orjson.Fragment(b"\0")  # JSON has no such byte: in strings it is escaped
PIECE = 16 * 1024  # numbers
PIECE_BYTES = 1 << 20


def json_in_parts(document: dict[str, Any], arrays: Sequence[np.ndarray]) -> list[bytes]:
    """The JSON of a document whose holes are filled with flat arrays."""
    first, *texts = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY).split(b"\0")
    parts = [first]
    for array, text in zip(arrays, texts, strict=True):
        parts += _numbers_in_parts(array)
        parts.append(text)
    return parts


def bytes_in_parts(array: np.ndarray) -> Iterator[bytes]:
    """The bytes of an array in C order, little-endian."""
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES].tobytes()


def _numbers_in_parts(array: np.ndarray) -> Iterator[bytes]:
    before = b"["
    for start in range(0, len(array), PIECE):
        yield before + json_of(array[start : start + PIECE])[1:-1]
        before = b","
    yield b"]" if len(array) else b"[]"


def json_of(array: np.ndarray) -> bytes:
    """The JSON of a flat array; NaN and Infinity, which JSON lacks, as Triton prints them."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps([float(str(value)) for value in array], separators=(",", ":")).encode()
