"""An inference response: tensors in, bytes out.

In: the outputs asked for and their arrays.  Out: a body, and the length of its JSON if tensors follow.

    body = JSON [+ tensors, little-endian, in the order of the JSON's outputs]

Numbers print in the shortest form that reads back as the same float32. NaN and Infinity, which JSON lacks,
print as Triton prints them, and the output's parameters say so.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from service.protocol.classification import bytes_of, classes_of
from service.protocol.head import Head
from service.protocol.signature import Signature


@dataclass(slots=True, eq=False)
class InferResponse:
    """A body in parts, the JSON first; `header_length` is the JSON's length, None if the body is all JSON.

    `num_nonfinite` counts the outputs whose JSON holds NaN or Infinity.
    """

    parts: list[bytes]
    header_length: int | None
    num_nonfinite: int = 0


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
        parts += [tensors[output.name].tobytes() for output in head.outputs]
        return InferResponse(parts, len(head.answer))
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    num_nonfinite = 0
    for output in head.outputs:
        array = tensors[output.name]
        datatype = signature.outputs[output.name].datatype
        if output.num_classes:
            array, datatype = classes_of(array, output.num_classes, signature.labels), "BYTES"
        entry: dict[str, Any] = {"name": output.name, "datatype": datatype, "shape": array.shape}
        if output.is_binary:
            content = array.tobytes() if datatype != "BYTES" else bytes_of(array)
            tail.append(content)
            entry["parameters"] = {"binary_data_size": len(content)}
        else:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                entry["parameters"] = {"nonfinite": True}
                num_nonfinite += 1
            entry["data"] = array.ravel() if datatype != "BYTES" else array.ravel().tolist()
        outputs.append(entry)
    document = {"model_name": signature.name, "model_version": signature.version, "outputs": outputs}
    if head.id is not None:
        document["id"] = head.id
    text = _with_nonfinite(document) if num_nonfinite else orjson.dumps(document, option=_OPTIONS)
    if not any(tail):
        return InferResponse([text], None, num_nonfinite)
    if all(output.is_binary and not output.num_classes for output in head.outputs):
        head.answer = text
    return InferResponse([text, *tail], len(text), num_nonfinite)


_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def _with_nonfinite(document: dict[str, Any]) -> bytes:
    def numbers(array: np.ndarray) -> list[Any]:
        if array.dtype.kind != "f":
            plain: list[Any] = array.tolist()
            return plain
        return [float(str(value)) for value in array]

    return json.dumps(document, default=numbers, separators=(",", ":")).encode()
