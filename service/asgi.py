"""The whole service as one ASGI application, for hosts that bring their own HTTP server.

In: FOLDSERVE_* variables, or flags.  Out: `app`: the hot route, every other route, the same models and proof.

    FOLDSERVE_MODELS=models uvicorn foldserve.asgi:app --port 8000
    app = AsgiService(["--models", "models"])

Startup ends when every model was tried and the service is ready; otherwise it fails with the reason, and no
host sends a request to a process that cannot answer. Nothing is read or loaded before it.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence

from service.errors import NotReady, ServiceError
from service.http.hosted import answer_hosted, head_of
from service.http.pipeline import is_infer
from service.http.reply import Receive, Scope, Send, send_error
from service.http.shared import Shared
from service.processes.assemble import Service, build_service
from service.processes.serve import refusal
from service.processes.worker import SWITCH_S, set_up_logging
from service.read_settings import SettingsError, read_settings
from service.settings import Settings
from service.telemetry.worker_group import WorkerSlot

# What the host decides: one that is set all the same is named in the log, and not silently ignored.
HOSTS = frozenset(
    {
        *(
            "host",
            "port",
            "workers",
            "worker_timeout_s",
            "max_connections",
            "body_timeout_s",
            "write_timeout_s",
        ),
        *(
            "exit_unless_ready",
            "drain_delay_s",
            "shutdown_timeout_s",
            "tls_certificate",
            "tls_key",
            "tls_client_ca",
        ),
    }
)
_log = logging.getLogger("foldserve")


class AsgiService:
    """An ASGI 3 application: lifespan and http. `arguments` are the flags of `foldserve serve`."""

    def __init__(self, arguments: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> None:
        self._arguments = arguments
        self._environment = environment
        self._service: Service | None = None

    @property
    def reason(self) -> str | None:
        """Why it is not ready, in one sentence, or None: for a host's own health check."""
        return "it was not started" if self._service is None else self._service.models.reason

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif self._service is None:
            await send_error(send, NotReady("not started: the host has to run ASGI's lifespan"))
        else:
            await _answer(self._service.shared, scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        if (reason := await self._start()) is not None:
            await self._end()
            await send({"type": "lifespan.startup.failed", "message": f"foldserve: {reason}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._end()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> str | None:
        """Load and prove every model; why the service cannot answer, or None."""
        try:
            settings = read_settings(self._arguments, self._environment)
        except SettingsError as error:
            return str(error)
        if (reason := refusal(settings)) is not None:
            return reason
        set_up_logging(settings)
        _warn_of_the_hosts(settings)
        sys.setswitchinterval(SWITCH_S)  # as a worker of our own: a lane must not wait for the event loop
        self._service = service = build_service(settings, WorkerSlot())
        await service.front.start()
        await service.models.loaded.wait()
        await service.front.prepare()
        return service.models.reason

    async def _end(self) -> None:
        """Refuse new work, finish what was accepted."""
        service, self._service = self._service, None
        if service is not None:
            service.models.is_draining, service.models.accepts_work = True, False
            await service.decoder.close()
            await service.heavy.close()
            await service.front.close()
            service.close()


async def _answer(shared: Shared, scope: Scope, receive: Receive, send: Send) -> None:
    root = scope.get("root_path", "")
    path = scope["path"].removeprefix(root)
    # Seen as our own server sees it: …/infer is found in the path as sent, where %2F is no slash.
    if scope["method"] == "POST" and path.endswith("/infer") and is_infer((head := head_of(scope)).path):
        await answer_hosted(shared, head, scope, receive, send)
        return
    try:
        if shared.gate is not None:
            client = scope.get("client")
            shared.gate.check(scope["method"], path, scope["headers"], client[0] if client else "")
    except ServiceError as error:
        await send_error(send, error)
        return
    await shared.app({**scope, "path": path}, receive, send)


def _warn_of_the_hosts(settings: Settings) -> None:
    for name in sorted(HOSTS & settings.model_fields_set):
        _log.warning(
            "event=setting_of_the_host %s is set, and the HTTP server that hosts us decides it", name
        )


app = AsgiService()
