"""The application: every route but the hot one, and one error format.

In: settings and models.  Out: an ASGI app; the endpoint of …/infer stands beside it, on the connection,
and that of /predict in the front.
"""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from service import __version__
from service.access.cors import EXPOSED
from service.errors import ServiceError, UnknownModel
from service.http.reply import error_body
from service.models.registry import ModelRegistry
from service.routes.describe import add_health, add_metadata, add_repository, add_statistics, answer
from service.routes.openapi import DESCRIPTION, PREDICT_BODY, TAGS, KeptDocument, describe
from service.routes.page import add_page
from service.routes.page_headers import PageHeaders
from service.settings import Settings
from service.telemetry.worker_group import WorkerGroup

_INFER_PATHS = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")


def build_app(settings: Settings, models: ModelRegistry, workers: WorkerGroup) -> FastAPI:
    """The ASGI application of every route but the hot ones."""
    app = FastAPIOffline(
        title="foldserve",
        version=__version__,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        redoc_url=None,
        redirect_slashes=False,
        swagger_ui_parameters={"defaultModelsExpandDepth": -1, "tryItOutEnabled": True},
    )
    for path in _INFER_PATHS:
        app.router.routes.append(Route(path, _not_here, methods=["POST"]))
    add_health(app, models, workers)
    add_statistics(app, models, workers)
    add_metadata(app, models, has_control=settings.model_control)
    add_repository(app, models, has_control=settings.model_control)
    add_page(app, models)
    _add_predict(app)
    _add_error_handlers(app)
    app.add_middleware(PageHeaders)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    app.openapi = lambda: describe(app, models)  # type: ignore[method-assign]
    app.router.routes.insert(0, Route("/openapi.json", KeptDocument(app, models).__call__))
    return app


async def _not_here(request: Request) -> Response:
    """The route stands in the app for its other methods and documents; its POST is answered elsewhere."""
    raise UnknownModel("Not Found")


def _add_predict(app: FastAPI) -> None:
    @app.post("/predict", tags=["predict"], summary="Label pictures", openapi_extra=PREDICT_BODY)
    async def predict(request: Request) -> Response:
        """A JPEG, PNG or WebP in the body, or several as multipart files; labels with probabilities back."""
        return await _not_here(request)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> Response:
        return answer(error.status, error_body(str(error)), error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:  # Starlette names them in any order, and leaves HEAD out of some
            methods = set(headers.get("Allow", "GET").split(", "))
            headers["Allow"] = ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
        if error.status_code == 405 and request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        return answer(error.status_code, error_body(str(error.detail)), headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        first: Any = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return answer(422, error_body(f"{where}: {first['msg']}"))

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> Response:
        return answer(500, error_body("internal server error"))
