"""Tensors of any datatype: valid values, and their two forms on the wire.

In: a datatype and a shape.  Out: an array, its JSON, its bytes; and back.

BYTES are object arrays of `bytes`; BF16, which numpy lacks, is kept as its 16 bits.
"""

import struct
from typing import Any

import numpy as np

NUMPY = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "BF16": "<u2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BYTES": "O",
}
NOT_IN_JSON = frozenset({"FP16", "BF16"})


def some_values(datatype: str, shape: list[int], seed: int = 0) -> np.ndarray:
    """Small values that any model of this datatype takes."""
    chance = np.random.default_rng(seed)
    if datatype == "BOOL":
        return chance.integers(0, 2, shape).astype(bool)
    if datatype == "BF16":  # the upper half of a float32
        return (chance.random(shape, np.float32).view(np.uint32) >> 16).astype("<u2")
    if datatype == "BYTES":
        words = [str(number).encode() for number in chance.integers(0, 1000, int(np.prod(shape)))]
        return _objects(words, shape)
    if datatype.startswith("FP"):
        return chance.random(shape).astype(NUMPY[datatype])
    return chance.integers(0, 8, shape).astype(NUMPY[datatype])


def extreme_values(datatype: str, count: int) -> np.ndarray:
    """The ends of the datatype's range and what lies between, `count` of them."""
    if datatype == "BOOL":
        values: Any = np.array([True, False])
    elif datatype == "BYTES":
        values = _objects([b"", "é\n".encode(), b"a longer one"], [3])
    elif datatype == "BF16":
        values = np.array([0x7F7F, 0xFF7F, 0x3F80, 0], "<u2")
    elif datatype.startswith("FP"):
        limits = np.finfo(NUMPY[datatype])
        values = np.array([limits.min, limits.max, limits.tiny, 1.5], NUMPY[datatype])
    else:
        whole = np.iinfo(NUMPY[datatype])
        values = np.array([whole.min, whole.max, 1, 0], NUMPY[datatype])
    return np.resize(values, count)


def to_json(array: np.ndarray) -> Any:
    """Nested lists."""
    if array.dtype == object:
        return np.vectorize(lambda word: word.decode(), otypes=[object])(array).tolist()
    return array.tolist()


def to_bytes(array: np.ndarray) -> bytes:
    """Little-endian, row-major; BYTES with their lengths in front."""
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(word)) + word for word in array.ravel())
    return array.tobytes()


def from_json(data: Any, datatype: str, shape: list[int]) -> np.ndarray:
    """An array from flat or nested lists; a null is an error."""
    if datatype == "BYTES":
        return _objects([word.encode() for word in np.ravel(np.array(data, object))], shape)
    kind = {"BOOL": bool, "FP32": (int, float), "FP64": (int, float)}.get(datatype, int)
    elements = np.array(data, object).ravel().tolist()
    wrong = [value for value in elements if not isinstance(value, kind)]
    assert not wrong, f"{wrong[0]!r} is no {datatype}"
    return np.array(elements, NUMPY[datatype]).reshape(shape)


def from_bytes(content: bytes, datatype: str, shape: list[int]) -> np.ndarray:
    """An array from exactly its bytes."""
    if datatype != "BYTES":
        return np.frombuffer(content, NUMPY[datatype]).reshape(shape)
    words = []
    while content:
        (length,) = struct.unpack_from("<I", content)
        words.append(content[4 : 4 + length])
        content = content[4 + length :]
    return _objects(words, shape)


def _objects(words: list[bytes], shape: list[int]) -> np.ndarray:
    array = np.empty(len(words), object)
    array[:] = words
    return array.reshape(shape)
