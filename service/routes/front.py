"""The front: health, pictures, and the way to the application for every other request.

In: ASGI.  Out: health and /predict at once; everything else from the application, which is built when it is
first needed.

The application costs as much to import as all the rest. So the service is ready without it, and the import
runs in a thread as soon as the models are loaded, or when the first request wants it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from service.errors import Draining
from service.http.reply import JSON, Receive, Scope, Send, error_body, send_error, send_reply
from service.models.registry import ModelRegistry
from service.telemetry.worker_group import WorkerGroup

App = Callable[[Scope, Receive, Send], Awaitable[None]]
Health = tuple[int, bytes, dict[str, str]]

GRACE_S = 0.2


class Front:
    """An ASGI application that starts and closes the models, answers health, and passes the rest on.

    `predict` answers pictures; `build_app` returns the application for the rest, and is called once, in a
    thread.
    """

    def __init__(
        self, models: ModelRegistry, workers: WorkerGroup, predict: App, build_app: Callable[[], App]
    ) -> None:
        self._models = models
        self._workers = workers
        self._predict = predict
        self._build_app = build_app
        self._app: asyncio.Future[App] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        except asyncio.CancelledError:
            # The shutdown timeout has passed in the middle of a request; its answer may have begun.
            with contextlib.suppress(RuntimeError):
                await send_error(send, Draining("the server shut down before the request was answered"))

    def prepare(self) -> "asyncio.Future[App]":
        """Begin to build the application, once; the future is done when it can be called."""
        if self._app is None:
            self._app = asyncio.get_running_loop().run_in_executor(None, self._build_app)
        return self._app

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in _HEALTH and scope["method"] in ("GET", "HEAD"):
            status, body, headers = await _HEALTH[scope["path"]](self._models, self._workers)
            own = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send_reply(send, status, (JSON, *own), body)
            return
        if scope["path"] == "/predict" and scope["method"] == "POST":
            await self._predict(scope, receive, send)
            return
        app = await asyncio.shield(self.prepare())
        await app(scope, receive, send)

    async def start(self) -> None:
        """Begin to load the models; returns at once, or for a replaced worker when they have been tried."""
        await self._workers.start()
        self._models.start()
        if self._workers.slot.replaces:
            await self._models.loaded.wait()

    async def close(self) -> None:
        """Close the models; the server has waited for every answer before."""
        await self._models.close(GRACE_S)
        await self._workers.close()


async def live(models: ModelRegistry, workers: WorkerGroup) -> Health:
    """GET /v2/health/live, as status, body and headers: 200 while the process is up."""
    return 200, b'{"live":true}', {}


async def ready(models: ModelRegistry, workers: WorkerGroup) -> Health:
    """GET /v2/health/ready, as status, body and headers: 503 with the reason until every worker is ready."""
    if reason := models.reason or await workers.reason():
        return 503, error_body(reason, ready=False), {"retry-after": "1"}
    return 200, b'{"ready":true}', {}


_HEALTH = {"/v2/health/live": live, "/v2/health/ready": ready}
