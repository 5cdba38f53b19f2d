"""What answers look like, as models that OpenAPI's schemas are made of; no served answer passes through them.

In: nothing.  Out: `SCHEMAS`, a model for each path whose answer has a form of its own.
"""

from typing import Any

from service.contract.manifest import GoldenPictures
from service.contract.preprocessing import Postprocessing, Preprocessing
from service.contract.strict import Strict


class Tensor(Strict):
    """A tensor of the Open Inference Protocol; `data` is flat, and absent where it follows in binary."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class Row(Strict):
    """For ?row=true, the row that the net received: a PNG as a data URL, its shape, minimum and maximum."""

    png: str
    shape: list[int]
    minimum: float
    maximum: float


class Label(Strict):
    """A label of the model, or a class's number where it has none."""

    label: str
    probability: float


class Prediction(Strict):
    """Of every task: the file's name where the picture came in a form, and its row where asked for."""

    file: str | None = None
    row: Row | None = None


class Classification(Prediction):
    """Task classification: the most probable label; `top`, the first of all labels, whose sum is 1."""

    label: str
    probability: float
    top: list[Label]


class MultiLabel(Prediction):
    """Task multi-label: labels from the threshold on, none perhaps; each probability stands by itself."""

    labels: list[Label]
    top: list[Label]


class Embedding(Prediction):
    """Task embedding: the vector."""

    embedding: list[float]


class Spatial(Prediction):
    """Task spatial: the first output of the picture, a map, flattened in C order."""

    output: Tensor


class PredictAnswer(Strict):
    """One prediction for each picture, in their order; which kind it is, the model's task decides."""

    model_name: str
    model_version: str
    predictions: list[Classification | MultiLabel | Embedding | Spatial]


class InferAnswer(Strict):
    """The outputs in the requested order; `id` as in the request."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[Tensor]


class TensorMetadata(Strict):
    """A tensor's name, datatype and shape; -1 for rows and for open sizes."""

    name: str
    datatype: str
    shape: list[int]


class Range(Strict):
    """Between which numbers an input's values lie, and how a picture lies in it; null where not stated."""

    minimum: float | None
    maximum: float | None
    layout: str | None


class ModelMetadata(Strict):
    """A model's tensors, and what its bundle says: labels, what a picture becomes, ranges, accuracy."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    properties: dict[str, str]
    sizes: dict[str, Any] | None = None
    labels: list[str] | None
    preprocessing: Preprocessing | None
    postprocessing: Postprocessing | None
    ranges: dict[str, Range]
    golden_pictures: GoldenPictures | None
    accuracy: dict[str, Any]


class ServerMetadata(Strict):
    """The server and the extensions of the protocol that it supports."""

    name: str
    version: str
    extensions: list[str]


class ModelNames(Strict):
    """Names of the models."""

    models: list[str]


class ModelReady(Strict):
    """A model that has passed its proof."""

    name: str
    ready: bool


_MODEL, _VERSION = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
SCHEMAS: dict[str, type[Strict]] = {
    "/predict": PredictAnswer,
    "/v2": ServerMetadata,
    "/v2/models": ModelNames,
    **{
        f"{path}{end}": schema
        for path in (_MODEL, _VERSION)
        for end, schema in (("", ModelMetadata), ("/ready", ModelReady), ("/infer", InferAnswer))
    },
}
_TOP: list[dict[str, Any]] = [{"label": "cat", "probability": 0.91}, {"label": "dog", "probability": 0.09}]
PREDICTIONS: dict[str, dict[str, Any]] = {
    "classification": {**_TOP[0], "top": _TOP},
    "multi-label": {"labels": _TOP[:1], "top": _TOP},
    "embedding": {"embedding": [0.25, -1.5]},
    "spatial": {"output": {"name": "y", "datatype": "FP32", "shape": [1, 1, 2], "data": [0.25, -1.5]}},
}
"""An example of a prediction for each task."""
