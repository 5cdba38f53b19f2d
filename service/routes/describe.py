"""Everything that is asked with GET, and the repository: health, metadata, statistics, configuration.

In: the app, the models, the group of workers.  Out: routes on the app.
"""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse

from service.contract.picture_support import picture_facts
from service.errors import BadRequest, NotInMemory, Unsupported
from service.http.body import receive_all
from service.models.registry import ModelRegistry
from service.models.repository_index import repository_index
from service.protocol.document import read_document
from service.protocol.metadata import model_metadata, server_metadata
from service.protocol.statistics import model_stats
from service.routes.front import live, ready
from service.telemetry.exposition import exposition
from service.telemetry.worker_group import WorkerGroup

MAX_PARAMETERS = 128 * 1024  # bytes of JSON, parsed on the event loop: the worst takes 4 ms

Handler = TypeVar("Handler", bound=Callable[..., Coroutine[Any, Any, Any]])


def get(app: FastAPI, path: str, **options: Any) -> Callable[[Handler], Handler]:
    """A GET route that answers HEAD too."""

    def register(function: Handler) -> Handler:
        app.get(path, **options)(function)
        return app.head(path, include_in_schema=False)(function)

    return register


def add_health(app: FastAPI, models: ModelRegistry, workers: WorkerGroup) -> None:
    """Live, ready, and ready for each model and version."""

    @get(app, "/v2/health/live", tags=["health"], summary="Is the process up?")
    async def server_live() -> Response:
        return answer(*await live(models, workers))

    @get(app, "/v2/health/ready", tags=["health"], summary="Has every model passed its proof?")
    async def server_ready() -> Response:
        return answer(*await ready(models, workers))

    @get(
        app, "/v2/models/{model}/versions/{version}/ready", tags=["health"], summary="Is this version ready?"
    )
    async def version_ready(model: str, version: str) -> dict[str, Any]:
        return {"name": (await models.find(model, version)).name, "ready": True}

    @get(app, "/v2/models/{model}/ready", tags=["health"], summary="Is this model ready?")
    async def model_ready(model: str) -> dict[str, Any]:
        return {"name": (await models.find(model)).name, "ready": True}


def add_statistics(app: FastAPI, models: ModelRegistry, workers: WorkerGroup) -> None:
    """The statistics extension and Prometheus; of all workers together."""

    def wanted_of(model: str, version: str | None) -> tuple[str, str | None]:
        try:
            return model, models.get(model, version).version
        except NotInMemory:  # what it did before is known; to be asked about it is no reason to load it
            return model, version

    async def stats(model: str | None, version: str | None) -> dict[str, Any]:
        wanted = None if model is None else wanted_of(model, version)
        snapshot = await workers.snapshot()
        return {
            "model_stats": [
                model_stats(facts)
                for facts in snapshot["versions"]
                if wanted is None or (facts["name"] == wanted[0] and wanted[1] in (None, facts["version"]))
            ]
        }

    @get(app, "/v2/models/stats", tags=["statistics"], summary="What every model did")
    async def all_stats() -> dict[str, Any]:
        return await stats(None, None)

    @get(
        app, "/v2/models/{model}/versions/{version}/stats", tags=["statistics"], summary="What a version did"
    )
    async def version_stats(model: str, version: str) -> dict[str, Any]:
        return await stats(model, version)

    @get(app, "/v2/models/{model}/stats", tags=["statistics"], summary="What a model did")
    async def latest_stats(model: str) -> dict[str, Any]:
        return await stats(model, None)

    @get(
        app,
        "/metrics",
        tags=["statistics"],
        summary="Counters and histograms for Prometheus",
        response_class=PlainTextResponse,
    )
    async def metrics() -> Response:
        is_ready = models.is_ready and await workers.reason() is None
        snapshot = await workers.snapshot()
        # In a thread: half of its 2 ms are what /proc says of the process.
        text = await run_in_threadpool(exposition, snapshot, is_ready=is_ready)
        return Response(text, media_type=CONTENT_TYPE_LATEST)


def add_metadata(app: FastAPI, models: ModelRegistry, *, has_control: bool) -> None:
    """Server, models and their configuration."""

    @get(app, "/v2/", include_in_schema=False)
    @get(app, "/v2", tags=["metadata"], summary="The server's name, version and extensions")
    async def server() -> dict[str, Any]:
        return server_metadata(has_control=has_control)

    @get(app, "/v2/models", tags=["metadata"], summary="Names of the models")
    async def names() -> dict[str, list[str]]:
        return {"models": models.names}

    @get(app, "/v2/models/{model}/versions/{version}/config", tags=["metadata"], summary="How a version runs")
    async def version_config(model: str, version: str) -> dict[str, Any]:
        return (await models.find(model, version)).configuration

    @get(app, "/v2/models/{model}/config", tags=["metadata"], summary="How a model runs")
    async def latest_config(model: str) -> dict[str, Any]:
        return (await models.find(model)).configuration

    @get(app, "/v2/models/{model}/versions/{version}", tags=["metadata"], summary="A version's tensors")
    async def version_metadata(model: str, version: str) -> dict[str, Any]:
        served = await models.find(model, version)
        return model_metadata(served.signature, served.properties, picture_facts(served.manifest))

    @get(app, "/v2/models/{model}", tags=["metadata"], summary="A model's tensors")
    async def latest_metadata(model: str) -> dict[str, Any]:
        served = await models.find(model)
        return model_metadata(served.signature, served.properties, picture_facts(served.manifest))


def add_repository(app: FastAPI, models: ModelRegistry, *, has_control: bool) -> None:
    """The model repository extension; loading and unloading only where they are allowed."""

    @app.post("/v2/repository/index", tags=["repository"], summary="Every model and its state")
    async def index(request: Request) -> Response:
        wanted = await _parameters(request)
        is_ready = wanted.get("ready", False)
        if type(is_ready) is not bool:
            raise BadRequest("'ready' must be true or false")
        entries = await run_in_threadpool(
            repository_index, models.states, models.config.folder, only_ready=is_ready
        )
        return answer(200, orjson.dumps(entries))

    @app.post("/v2/repository/models/{model}/load", tags=["repository"], summary="Serve the newest version")
    async def load(model: str, request: Request) -> Response:
        await check_control(request)
        await models.load(model)
        return answer(200, b"{}")

    @app.post("/v2/repository/models/{model}/unload", tags=["repository"], summary="Serve a model no longer")
    async def unload(model: str, request: Request) -> Response:
        await check_control(request)
        await models.unload(model)
        return answer(200, b"{}")

    async def check_control(request: Request) -> None:
        if not has_control:
            raise Unsupported("loading and unloading are off; --model-control turns them on")
        parameters = (await _parameters(request)).get("parameters", {})
        if type(parameters) is not dict:
            raise BadRequest("'parameters' must be an object")
        for name in parameters:
            if name == "config" or name.startswith("file:"):
                raise Unsupported(f"parameter '{name}' is not supported: models come from the models folder")


async def _parameters(request: Request) -> dict[str, Any]:
    body = await receive_all(request.receive, MAX_PARAMETERS)
    return read_document(body) if bytes(body).strip() else {}


def answer(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    """A response whose body is JSON already."""
    return Response(body, status, headers=headers, media_type="application/json")
