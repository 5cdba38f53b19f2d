"""The application: every route, one error format, and a short cut for the hot one.

In: settings.  Out: an ASGI app for uvicorn.

    Front ─┬─ POST …/infer ──▶ InferEndpoint          nothing in between
           └─ everything else ──▶ FastAPI ──▶ health, metadata, predict, metrics, docs
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.routing import Route

from service import __version__
from service.engine import EngineConfig
from service.errors import Draining, ServiceError
from service.infer import InferEndpoint, is_infer
from service.models import Models, ModelsConfig
from service.openapi import DESCRIPTION, PREDICT_BODY, TAGS, describe
from service.predict import Predictor
from service.protocol.metadata import model_metadata, server_metadata
from service.reply import Receive, Scope, Send, error_body, send_error
from service.settings import Settings, usable_cores
from service.watchman import Watchman

Handler = TypeVar("Handler", bound=Callable[..., Coroutine[Any, Any, Any]])

_GRACE_S = 0.2
_log = logging.getLogger("foldserve")
_INFER_PATHS = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")


class Front:
    """The short cut: inference requests reach their endpoint without a walk through the framework."""

    def __init__(self, app: FastAPI, infer: InferEndpoint) -> None:
        self._app = app
        self._infer = infer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] == "http" and is_infer(scope):
                await self._infer(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            # The shutdown timeout has passed in the middle of a request; its answer may have begun.
            with contextlib.suppress(RuntimeError):
                await send_error(send, Draining("the server shut down before the request was answered"))


def build_models(settings: Settings) -> Models:
    """The models that these settings describe; must be called with an event loop running or about to."""
    return Models(
        ModelsConfig(
            root=settings.models,
            engine=EngineConfig(device=settings.device, threads=settings.threads, buckets=settings.buckets),
            queue_rows=settings.queue_rows,
            max_wait_s=settings.max_wait_ms / 1e3,
        )
    )


def build_app(settings: Settings, models: Models) -> Front:
    """The application that serves `models`."""
    threads = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        models.start()
        yield
        await models.close(_GRACE_S)  # uvicorn has waited for every caller: a batch that runs is nobody's
        threads.shutdown(wait=False, cancel_futures=True)

    app = FastAPIOffline(
        title="foldserve",
        version=__version__,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        swagger_ui_parameters={"defaultModelsExpandDepth": -1, "tryItOutEnabled": True},
    )
    watchman = Watchman()
    infer = InferEndpoint(models, watchman, threads, settings.max_body_bytes)
    predictor = Predictor(
        models, watchman, threads, max_body_bytes=settings.max_body_bytes, max_pixels=settings.max_pixels
    )
    for path in _INFER_PATHS:
        app.router.routes.append(Route(path, infer, methods=["POST"]))
    _add_health(app, models)
    _add_metadata(app, models)
    _add_comforts(app, models, predictor)
    _add_error_handlers(app)
    app.openapi = lambda: describe(app, models)  # type: ignore[method-assign]
    return Front(app, infer)


def _get(app: FastAPI, path: str, **options: Any) -> Callable[[Handler], Handler]:
    """A GET route that answers HEAD too."""

    def register(function: Handler) -> Handler:
        app.get(path, **options)(function)
        return app.head(path, include_in_schema=False)(function)

    return register


def _add_health(app: FastAPI, models: Models) -> None:
    @_get(app, "/v2/health/live", tags=["health"], summary="Is the process up?")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @_get(app, "/v2/health/ready", tags=["health"], summary="Has every model passed its proof?")
    async def ready() -> Response:
        if reason := models.reason:
            return _json(503, error_body(reason, ready=False), {"retry-after": "1"})
        return _json(200, b'{"ready":true}')

    @_get(
        app, "/v2/models/{model}/versions/{version}/ready", tags=["health"], summary="Is this version ready?"
    )
    async def version_ready(model: str, version: str) -> dict[str, Any]:
        return {"name": models.get(model, version).name, "ready": True}

    @_get(app, "/v2/models/{model}/ready", tags=["health"], summary="Is this model ready?")
    async def model_ready(model: str) -> dict[str, Any]:
        return {"name": models.get(model).name, "ready": True}


def _add_metadata(app: FastAPI, models: Models) -> None:
    def metadata(model: str, version: str | None = None) -> dict[str, Any]:
        served = models.get(model, version)
        return model_metadata(served.signature, served.properties)

    @_get(app, "/v2/", include_in_schema=False)
    @_get(app, "/v2", tags=["metadata"], summary="The server's name, version and extensions")
    async def server() -> dict[str, Any]:
        return server_metadata()

    @_get(app, "/v2/models", tags=["metadata"], summary="Names of the models")
    async def names() -> dict[str, list[str]]:
        return {"models": models.names}

    @_get(app, "/v2/models/{model}/versions/{version}", tags=["metadata"], summary="A version's tensors")
    async def version_metadata(model: str, version: str) -> dict[str, Any]:
        return metadata(model, version)

    @_get(app, "/v2/models/{model}", tags=["metadata"], summary="A model's tensors")
    async def latest_metadata(model: str) -> dict[str, Any]:
        return metadata(model)


def _add_comforts(app: FastAPI, models: Models, predictor: Predictor) -> None:
    @app.post("/predict", tags=["predict"], summary="Label pictures", openapi_extra=PREDICT_BODY)
    async def predict(request: Request) -> dict[str, Any]:
        """A JPEG, PNG or WebP in the body, or several as multipart files; labels with probabilities back."""
        return await predictor(request)

    @_get(app, "/metrics", tags=["metrics"], summary="Counters and histograms for Prometheus")
    async def metrics() -> Response:
        return Response(models.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @_get(app, "/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("/docs")


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> Response:
        return _json(error.status, error_body(str(error)), error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if headers.get("Allow") == "GET":
            headers["Allow"] = "GET, HEAD"
        return _json(error.status_code, error_body(str(error.detail)), headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return _json(422, error_body(f"{where}: {first['msg']}"))

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> Response:
        return _json(500, error_body("internal server error"))


def _json(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers=headers, media_type="application/json")
