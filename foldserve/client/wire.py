"""What is sent and what comes back: encoded pictures, arrays as the protocol's binary tensors.

In: pictures, or arrays by input name.  Out: bodies; from responses, an `Answer` or `Prediction`s.
"""

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from foldserve.client.errors import BadRequest

Picture = str | os.PathLike[str] | bytes | np.ndarray | Any
PRECISION = "X-Model-Precision"
LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Who answered; `precision` is "int8" or "float32", "" from a server that does not say."""

    model: str
    version: str
    precision: str


@dataclass(frozen=True, kw_only=True)
class Answer(Origin):
    """Outputs by name, rows first, and the milliseconds of each phase by the server's clock."""

    outputs: dict[str, np.ndarray]
    request_id: str
    timing_ms: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Prediction(Origin):
    """What a picture is: `top` has the most probable labels, as (label, probability); the first is `label`.

    `labels` are those that apply: the first, or for a model of several labels all from its threshold on.
    A model without labels gives `values` instead: an embedding, or a map as (channels, height, width).
    """

    label: str
    probability: float
    top: list[tuple[str, float]]
    labels: list[tuple[str, float]]
    values: np.ndarray | None


def encoded(picture: Picture) -> bytes:
    """The content of a picture file: as it is, or as a new PNG; raises BadRequest or OSError."""
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, (str, os.PathLike)):
        return Path(picture).read_bytes()
    if isinstance(picture, np.ndarray):
        from PIL import Image

        dtype, shape = picture.dtype, picture.shape
        has_channels = len(shape) == 3 and shape[2] in (1, 3, 4)
        if dtype != np.uint8 or not picture.size or not (len(shape) == 2 or has_channels):
            expected = "uint8 of shape (height, width) or (height, width, 3 or 4)"
            raise BadRequest(f"pixels are {expected}, got {dtype} of shape {shape}")
        picture = Image.fromarray(picture[..., 0] if shape[2:] == (1,) else picture)
    if not hasattr(picture, "save"):
        kind = type(picture).__name__
        raise BadRequest(f"a picture is a path, bytes, uint8 pixels or a Pillow picture, got {kind}")
    # With its EXIF, so that a photograph is turned upright as the same file would be.
    picture.save(buffer := io.BytesIO(), "PNG", compress_level=1, exif=picture.getexif())
    return buffer.getvalue()


def infer_body(
    datatypes: Mapping[str, str], inputs: Any, outputs: Sequence[str], **parameters: int
) -> tuple[bytes, int]:
    """The body of an inference request, and the length of its JSON; raises BadRequest."""
    if not isinstance(inputs, Mapping):
        if len(datatypes) != 1:
            raise BadRequest(f"the model has the inputs {', '.join(datatypes)}: give a dict of arrays")
        inputs = {next(iter(datatypes)): inputs}
    arrays = {name: _array(name, value, datatypes) for name, value in inputs.items()}
    document = {
        "parameters": {"binary_data_output": True, **parameters},
        "inputs": [
            {"name": name, "shape": array.shape, "datatype": datatypes[name]}
            | {"parameters": {"binary_data_size": array.nbytes}}
            for name, array in arrays.items()
        ],
        "outputs": [{"name": name} for name in outputs],
    }
    head = json.dumps(document).encode()
    return b"".join([head, *(array.tobytes() for array in arrays.values())]), len(head)


def _array(name: str, value: Any, datatypes: Mapping[str, str]) -> np.ndarray:
    """`value` in its input's datatype; an array is cast only within its kind, as float64 to float32."""
    if name not in datatypes:
        raise BadRequest(f"the model has no input '{name}', only {', '.join(datatypes)}")
    dtype, taken = _dtype(datatypes[name]), datatypes[name]
    if isinstance(value, np.ndarray) and not np.can_cast(value.dtype, dtype, "same_kind"):
        raise BadRequest(f"input '{name}' is {value.dtype}, the model takes {taken}: cast it yourself")
    return np.asarray(value, dtype)


def _dtype(datatype: str) -> np.dtype[Any]:
    """The protocol's FP32, INT8, BOOL … as NumPy's."""
    return np.dtype(datatype.lower().replace("fp", "float")).newbyteorder("<")


def read_answer(response: httpx.Response) -> Answer:
    """The outputs of a response, binary or in JSON."""
    content = response.content
    at = int(response.headers.get(LENGTH, len(content)))
    document = json.loads(content[:at])
    outputs = {}
    for tensor in document["outputs"]:
        name, size = tensor["name"], tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            outputs[name] = _from_json(tensor)
        else:
            binary, at = content[at : at + size], at + size
            outputs[name] = np.frombuffer(binary, _dtype(tensor["datatype"])).reshape(tensor["shape"]).copy()
    timings = [part.partition(";dur=") for part in response.headers.get("server-timing", "").split(",")]
    timing_ms = {name.strip(): float(ms) for name, _, ms in timings if ms}
    request_id = response.headers.get("x-request-id", "")
    return Answer(outputs=outputs, request_id=request_id, timing_ms=timing_ms, **_origin(document, response))


def read_predictions(response: httpx.Response) -> list[Prediction]:
    """What a response of /predict says, for each picture."""
    document = response.json()
    origin = _origin(document, response)
    return [Prediction(**_prediction(each), **origin) for each in document["predictions"]]


def _prediction(entry: Mapping[str, Any]) -> dict[str, Any]:
    top = _ranked(entry.get("top", ()))
    labels = _ranked(entry["labels"]) if "labels" in entry else top[:1]
    # A map comes as a tensor with its datatype and shape, an embedding as a bare list of numbers.
    tensor = entry.get("output", {"datatype": "FP64", "shape": -1, "data": entry.get("embedding")})
    values = None if tensor["data"] is None else _from_json(tensor)
    label, probability = top[0] if top else ("", 0.0)
    return {"label": label, "probability": probability, "top": top, "labels": labels, "values": values}


def _ranked(labels: Iterable[Mapping[str, Any]]) -> list[tuple[str, float]]:
    return [(each["label"], each["probability"]) for each in labels]


def _from_json(tensor: Mapping[str, Any]) -> np.ndarray:
    return np.array(tensor["data"], _dtype(tensor["datatype"])).reshape(tensor["shape"])


def _origin(document: Mapping[str, Any], response: httpx.Response) -> dict[str, Any]:
    precision, version = response.headers.get(PRECISION, ""), document.get("model_version", "")
    return {"model": document["model_name"], "version": version, "precision": precision}
