"""The OpenAPI document behind /docs: FastAPI's own, with the hot route and examples that work unchanged.

In: the app and the served models.  Out: the OpenAPI document.
"""

import asyncio
from math import prod
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool

from service.models.registry import ModelRegistry
from service.protocol.signature import Signature
from service.routes.answers import PREDICTIONS, SCHEMAS

DESCRIPTION = """
Serves nets whose BatchNorms are folded away; each is **proved** on this device before its first request.

* **`POST /predict`** accepts a picture and returns labels with probabilities; a multi-label model
  answers the labels over its threshold, an embedding its vector, a spatial output its tensor.
* **`POST /v2/models/{model}/infer`** is the Open Inference Protocol v2: JSON or binary tensors, any client.
* **`/metrics`** is for Prometheus.

Every error, on every route, is `{"error": "one sentence"}`. `OPTIONS` answers 204; `Allow` lists the methods.
"""

TAGS = [
    {"name": "predict", "description": "Pictures in, labels out."},
    {"name": "inference", "description": "Tensors in, tensors out: Open Inference Protocol v2."},
    {"name": "health", "description": "Liveness and readiness; ready only after the proof."},
    {"name": "metadata", "description": "The served models, their tensors and configuration."},
    {"name": "statistics", "description": "Counts and durations of requests and batches."},
    {
        "name": "repository",
        "description": "All models and versions; loading and unloading with --model-control.",
    },
]

_PICTURE = {"schema": {"type": "string", "format": "binary"}}

PREDICT_BODY: dict[str, Any] = {
    "parameters": [
        {
            "name": "model",
            "in": "query",
            "schema": {"type": "string"},
            "description": "Name of the model; optional if only one model accepts pictures.",
        },
        {
            "name": "top",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1},
            "description": "Number of labels; by default 5, or all if the model has at most 10.",
        },
        {
            "name": "row",
            "in": "query",
            "schema": {"type": "boolean"},
            "description": "For one picture: the row that the net received, as a PNG of its pixels.",
        },
    ],
    "requestBody": {
        "required": True,
        "description": (
            "The EXIF orientation is applied; the picture is converted and resized as in training. "
            "Transparency is composited over black for grey nets (light ink on dark, as in MNIST) and over "
            "white for colour nets."
        ),
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "array", "items": _PICTURE["schema"]}},
                }
            },
            "image/png": _PICTURE,
            "image/jpeg": _PICTURE,
            "image/webp": _PICTURE,
            "application/octet-stream": _PICTURE,
        },
    },
}

_ERRORS = {
    "400": "the protocol or the model does not allow this request",
    "404": "unknown model or version",
    "413": "the body exceeds the limit",
    "503": "not ready, or the queue is full; see Retry-After",
    "504": "the request's own timeout expired",
}

_INFER_TEXT = """
Tensors are JSON (`data`, flat or nested according to `shape`) or **binary** (`binary_data_size` in the
input's `parameters`, the bytes after the JSON, the JSON's length in the header
`Inference-Header-Content-Length`). A request may have any number of rows; rows of concurrent requests are run
together. `parameters.timeout` is in microseconds.
"""


class KeptDocument:
    """GET /openapi.json: the document's JSON, made in a thread when the first served version has changed.

    Making it takes 5 ms, and more where the example has the numbers of a picture.
    """

    def __init__(self, app: FastAPI, models: ModelRegistry) -> None:
        self._app = app
        self._models = models
        self._example: Signature | None = None  # of which model the kept document speaks
        self._making: asyncio.Task[bytes] | None = None

    async def __call__(self, request: Request) -> Response:
        """The answer."""
        served = self._models.served
        example = served[0].signature if served else None
        if self._making is None or example is not self._example or _has_failed(self._making):
            self._example = example
            self._making = asyncio.create_task(run_in_threadpool(self._made))
        # Made once for all who wait for it: 200 requests at once would have it made 200 times.  A client that
        # hangs up must not take it from the others.
        return Response(await asyncio.shield(self._making), media_type="application/json")

    def _made(self) -> bytes:
        return orjson.dumps(describe(self._app, self._models))


def _has_failed(making: asyncio.Task[bytes]) -> bool:
    return making.done() and (making.cancelled() or making.exception() is not None)


def describe(app: FastAPI, models: ModelRegistry) -> dict[str, Any]:
    """The OpenAPI document, with the first served model in its examples."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    served = models.served
    signature = served[0].signature if served else None
    paths = document["paths"]
    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        paths[path] = {"post": _infer(path, signature)}
    for methods in paths.values():
        for operation in methods.values():
            _complete(operation, signature)
    _add_schemas(document)
    return document


def _add_schemas(document: dict[str, Any]) -> None:
    """What answers look like, and for /predict an example of each task."""
    made = models_json_schema(
        [(model, "serialization") for model in dict.fromkeys(SCHEMAS.values())],
        ref_template="#/components/schemas/{model}",
    )[1]
    document.setdefault("components", {}).setdefault("schemas", {}).update(made["$defs"])
    for path, model in SCHEMAS.items():
        for operation in document["paths"][path].values():
            described: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
            operation["responses"]["200"].setdefault("content", {})["application/json"] = described
            if path == "/predict":
                answers = {task: {"predictions": [example]} for task, example in PREDICTIONS.items()}
                head = {"model_name": "net", "model_version": "1"}
                described["examples"] = {task: {"value": head | answers[task]} for task in answers}


def _infer(path: str, signature: Signature | None) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("model", "version")
        if f"{{{name}}}" in path
    ]
    versioned = " with a given version" if "{version}" in path else ""
    return {
        "tags": ["inference"],
        "summary": f"Run rows{versioned}",
        "description": _INFER_TEXT,
        "operationId": f"infer{'_version' if versioned else ''}",
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"type": "object"}, "example": _request_example(signature)},
                "application/octet-stream": _PICTURE,
            },
        },
        "responses": {
            "200": {
                "description": "The outputs, in the requested order",
            }
        },
    }


def _request_example(signature: Signature | None) -> dict[str, Any]:
    if signature is None:
        return {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [0.0, 0.0]}]}
    return {
        "id": "example",
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": [1, *tensor.extreme("minimum")],
                "data": [False if tensor.datatype == "BOOL" else 0] * prod(tensor.extreme("minimum")),
            }
            for tensor in signature.inputs.values()
        ],
    }


def _complete(operation: dict[str, Any], signature: Signature | None) -> None:
    """Document our errors instead of FastAPI's, and use the served model in a path's examples."""
    responses = operation["responses"]
    responses.pop("422", None)
    if set(operation["tags"]) & {"predict", "inference"}:
        responses |= {code: _error(text) for code, text in _ERRORS.items()}
    examples = {"model": signature.name, "version": signature.version} if signature else {}
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path" and parameter["name"] in examples:
            parameter["example"] = examples[parameter["name"]]


def _error(text: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    return {"description": text, "content": {"application/json": {"schema": schema}}}
