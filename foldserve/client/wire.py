"""Arrays on the wire: the Open Inference Protocol's binary tensors, and what comes back.

In: arrays by input name, the datatypes of the model's inputs.  Out: a body; from a response an `Answer`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from foldserve.client.errors import BadRequest

PRECISION = "X-Model-Precision"
LENGTH = "Inference-Header-Content-Length"
_DTYPES = {
    **{"BOOL": "?", "UINT8": "u1", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8"},
    **{"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"},
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Outputs by name, rows first; who answered, and the milliseconds of each phase by the server's clock.

    `precision` is "int8" or "float32", as the server says; "" from one that does not say.
    """

    outputs: dict[str, np.ndarray]
    model: str
    version: str
    request_id: str
    timing_ms: dict[str, float]
    precision: str = ""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable label of a picture; `top` has it and the next ones, as (label, probability).

    `precision` as in an `Answer`.
    """

    label: str
    probability: float
    top: list[tuple[str, float]]
    model: str
    version: str
    precision: str = ""


def infer_body(
    datatypes: Mapping[str, str], inputs: Any, outputs: Sequence[str], **parameters: int
) -> tuple[bytes, int]:
    """The body of an inference request, and the length of its JSON; raises BadRequest."""
    if not isinstance(inputs, Mapping):
        if len(datatypes) != 1:
            raise BadRequest(f"the model has the inputs {', '.join(datatypes)}: give a dict of arrays")
        inputs = {next(iter(datatypes)): inputs}
    arrays = {name: _array(name, value, datatypes) for name, value in inputs.items()}
    tensors = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatypes[name],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in arrays.items()
    ]
    document = {
        "parameters": {"binary_data_output": True, **parameters},
        "inputs": tensors,
        "outputs": [{"name": name} for name in outputs],
    }
    head = json.dumps(document).encode()
    return b"".join([head, *(array.tobytes() for array in arrays.values())]), len(head)


def _array(name: str, value: Any, datatypes: Mapping[str, str]) -> np.ndarray:
    """`value` in its input's datatype; an array is cast only within its kind, as float64 to float32."""
    if name not in datatypes:
        raise BadRequest(f"the model has no input '{name}', only {', '.join(datatypes)}")
    dtype = np.dtype(_DTYPES[datatypes[name]])
    if not isinstance(value, np.ndarray):
        return np.asarray(value, dtype)
    if not np.can_cast(value.dtype, dtype, "same_kind"):
        raise BadRequest(
            f"input '{name}' is {value.dtype}, the model takes {datatypes[name]}: cast it yourself"
        )
    return value.astype(dtype, copy=False)


def read_answer(response: httpx.Response) -> Answer:
    """The outputs of a response, binary or in JSON."""
    content = response.content
    at = int(response.headers.get(LENGTH, len(content)))
    document = json.loads(content[:at])
    outputs = {}
    for tensor in document["outputs"]:
        dtype = np.dtype(_DTYPES[tensor["datatype"]])
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = np.array(tensor["data"], dtype)
        else:
            array, at = np.frombuffer(content, dtype, size // dtype.itemsize, at).copy(), at + size
        outputs[tensor["name"]] = array.reshape(tensor["shape"])
    timings = [part.partition(";dur=") for part in response.headers.get("server-timing", "").split(",")]
    return Answer(
        outputs=outputs,
        model=document["model_name"],
        version=document.get("model_version", ""),
        request_id=response.headers.get("x-request-id", ""),
        precision=response.headers.get(PRECISION, ""),
        timing_ms={name.strip(): float(ms) for name, _, ms in timings if ms},
    )


def read_predictions(response: httpx.Response) -> list[Prediction]:
    """The labels of a response of /predict, one for each picture."""
    document = response.json()
    return [
        Prediction(
            label=each["label"],
            probability=each["probability"],
            top=[(one["label"], one["probability"]) for one in each["top"]],
            model=document["model_name"],
            version=document["model_version"],
            precision=response.headers.get(PRECISION, ""),
        )
        for each in document["predictions"]
    ]
