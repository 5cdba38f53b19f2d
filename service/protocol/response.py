"""An inference response: tensors in, bytes out.

In: the outputs asked for and their arrays.  Out: a body, and the length of its JSON if tensors follow.

    body = JSON [+ tensors, little-endian, in the order of the JSON's outputs]

Numbers print in the shortest form that reads back as the same float32. NaN and Infinity, which JSON lacks,
print as Triton prints them, and the output's parameters say so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from service.protocol.classification import bytes_of, classes_of
from service.protocol.head import Head
from service.protocol.long_answers import HOLE, bytes_in_parts, json_in_parts
from service.protocol.signature import Signature

LONG = 32 * 1024  # numbers in JSON: 1 ms
_BINARY_WORK = 1 / 16  # of a number in JSON
_CLASS_WORK = 50
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


@dataclass(slots=True, eq=False)
class InferResponse:
    """A body in parts, the JSON first; `header_length` is the JSON's length, None if the body is all JSON.

    `num_nonfinite` counts the outputs whose JSON holds NaN or Infinity.
    """

    parts: list[bytes]
    header_length: int | None
    num_nonfinite: int = 0


def is_long(head: Head, tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether encoding the answer takes too long for the event loop; the head decides that, and keeps it."""
    if head.is_long is not None:
        return head.is_long
    work = 0.0
    for output in head.outputs:
        array = tensors[output.name]
        if output.num_classes:
            work += array.size + len(array) * output.num_classes * _CLASS_WORK
        else:
            work += array.size * _BINARY_WORK if output.is_binary else array.size
    head.is_long = work > LONG
    return head.is_long


def encode_response(
    signature: Signature,
    head: Head,
    tensors: Mapping[str, np.ndarray],
) -> InferResponse:
    """The body of the answer to `head`: `tensors` holds each output as an array, rows first.

    Where every output is binary the JSON holds no values: it is printed once and kept in the head.
    """
    if head.answer is not None:
        parts = [head.answer]
        for output in head.outputs:
            if head.is_long:
                parts += bytes_in_parts(tensors[output.name])
            else:
                parts.append(tensors[output.name].tobytes())
        return InferResponse(parts, len(head.answer))
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    holes: list[np.ndarray] = []
    num_nonfinite = 0
    for output in head.outputs:
        array = tensors[output.name]
        datatype = signature.outputs[output.name].datatype
        if output.num_classes:
            array, datatype = classes_of(array, output.num_classes, signature.labels), "BYTES"
        entry: dict[str, Any] = {"name": output.name, "datatype": datatype, "shape": array.shape}
        if output.is_binary:
            content = _bytes_of(array) if datatype != "BYTES" else [bytes_of(array)]
            tail += content
            entry["parameters"] = {"binary_data_size": sum([len(part) for part in content])}
        else:
            is_finite = array.dtype.kind != "f" or bool(np.isfinite(array).all())
            if not is_finite:
                entry["parameters"] = {"nonfinite": True}
                num_nonfinite += 1
            if datatype == "BYTES":
                entry["data"] = array.ravel().tolist()
            elif is_finite and array.size <= LONG:
                entry["data"] = array.ravel()
            else:
                entry["data"] = HOLE
                holes.append(array.ravel())
        outputs.append(entry)
    document = {"model_name": signature.name, "model_version": signature.version, "outputs": outputs}
    if head.id is not None:
        document["id"] = head.id
    texts = json_in_parts(document, holes) if holes else [orjson.dumps(document, option=_OPTIONS)]
    if not any(tail):
        return InferResponse(texts, None, num_nonfinite)
    if all(output.is_binary and not output.num_classes for output in head.outputs):
        head.answer = texts[0]
    return InferResponse([*texts, *tail], sum([len(text) for text in texts]), num_nonfinite)


def _bytes_of(array: np.ndarray) -> list[bytes]:
    return [array.tobytes()] if array.size <= LONG else list(bytes_in_parts(array))
