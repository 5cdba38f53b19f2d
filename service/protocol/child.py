"""A process that reads heavy requests, and may be killed meanwhile: `python -m service.protocol.child`.

In: what to expect, as JSON (`Expected`), then a body, JSON or compressed, as a client sent it.
Out: the same request in the binary form: its JSON, whose length is the answer's number, and its tensors; or
why it is refused: the status as the number, and a sentence.

The parent reads that form as it reads any client's: what it gets from here is checked like all the rest.
"""

from dataclasses import astuple
from typing import Any

import orjson

from service.errors import ServiceError
from service.isolation.child import Answer, answer_requests
from service.protocol.compression import decoded
from service.protocol.head import Head
from service.protocol.request import InferRequest, RequestParser
from service.protocol.signature import OpenSize, Signature, Tensor

MAX_MESSAGE = 2000  # characters: more than a client reads of it
READ = b"p"
REFUSED = b"f"


def expected_json(signature: Signature, encoding: bytes | None, length: bytes | None, limit: int) -> bytes:
    """What the process must know: signature, Content-Encoding, Inference-Header-Content-Length, limit."""
    tensors = [
        [
            {
                "name": t.name,
                "datatype": t.datatype,
                "row_shape": list(t.row_shape),
                "size": t.size,
                "open_sizes": [astuple(one) for one in t.open_sizes],
            }
            for t in side.values()
        ]
        for side in (signature.inputs, signature.outputs)
    ]
    return orjson.dumps(
        {
            "model": [signature.name, signature.version, signature.max_rows],
            "tensors": tensors,
            "size_names": signature.size_names,
            "encoding": None if encoding is None else encoding.decode("latin-1"),
            "length": None if length is None else length.decode("latin-1"),
            "limit": limit,
        }
    )


def main() -> None:
    """Read requests until there are no more."""
    answer_requests(_read)


def _read(parts: list[bytes]) -> Answer:
    expected = orjson.loads(parts.pop(0))
    encoding, length = expected["encoding"], expected["length"]
    try:
        body = decoded(parts.pop(), encoding and encoding.encode("latin-1"), expected["limit"])
        parser = RequestParser(_signature(expected))
        return _in_binary(parser.parse(body, None if length is None else length.encode("latin-1")))
    except ServiceError as error:
        return REFUSED, str(error)[:MAX_MESSAGE].encode("utf-8", "replace"), error.status
    except MemoryError:
        return REFUSED, b"the request needs too much memory to be read", 413


def _in_binary(request: InferRequest) -> Answer:
    tensors = [request.tensors[given.tensor.name].tobytes() for given in request.head.inputs]
    text = orjson.dumps(_document(request.head, [len(tensor) for tensor in tensors]))
    return READ, b"".join((text, *tensors)), len(text)


def _document(head: Head, sizes: list[int]) -> dict[str, Any]:
    document: dict[str, Any] = {} if head.id is None else {"id": head.id}
    document["parameters"] = {"timeout": round(head.timeout_s * 1e6), "priority": head.priority}
    document["inputs"] = [
        {
            "name": given.tensor.name,
            "datatype": given.tensor.datatype,
            "shape": given.shape,
            "parameters": {"binary_data_size": size},
        }
        for given, size in zip(head.inputs, sizes, strict=True)
    ]
    document["outputs"] = []
    for output in head.outputs:
        parameters: dict[str, Any] = {"binary_data": output.is_binary}
        if output.num_classes:
            parameters["classification"] = output.num_classes
        document["outputs"].append({"name": output.name, "parameters": parameters})
    return document


def _signature(expected: dict[str, Any]) -> Signature:
    name, version, max_rows = expected["model"]
    inputs, outputs = (
        {
            given["name"]: Tensor(
                name=given["name"],
                datatype=given["datatype"],
                row_shape=tuple(given["row_shape"]),
                size=given["size"],
                open_sizes=tuple(OpenSize(*one) for one in given["open_sizes"]),
            )
            for given in side
        }
        for side in expected["tensors"]
    )
    return Signature(
        name=name,
        version=version,
        inputs=inputs,
        outputs=outputs,
        max_rows=max_rows,
        size_names=tuple(expected["size_names"]),
    )


if __name__ == "__main__":
    main()
