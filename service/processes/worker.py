"""One worker: a process that serves every model on a bound socket until told to stop.

In: settings, a socket, a slot in the group of workers.  Out: HTTP; the exit code.
"""

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
import threading
from pathlib import Path

from service.contract.picture_support import unsupported_reason
from service.models.memory import map_large_blocks
from service.models.registry import ModelRegistry
from service.processes.assemble import build_service
from service.processes.server import Server, leave
from service.settings import Settings
from service.telemetry.request_log import JsonFormatter
from service.telemetry.standard_error import drain_stderr, never_wait_for_stderr
from service.telemetry.worker_group import WorkerGroup, WorkerSlot

SWITCH_S = 0.000005  # a lane with a batch to begin or to hand back must not wait for a busy event loop
NOT_READY = 3  # the exit code where no model, or not every one, could be served
_ROUND_S = 0.05
_BEAT_S = 0.5
_log = logging.getLogger("foldserve")


def run_worker(
    settings: Settings,
    sock: socket.socket,
    slot: WorkerSlot,
    parent: int | None = None,
    beat: int | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, or until the other end of the pipe `parent` closes; the exit code.

    It is NOT_READY where `exit_unless_ready` is set and the models at the start do not make the server ready.
    Into the pipe `beat` the event loop writes a byte twice a second, so that it is known to run.
    """
    set_up_logging(settings)
    sys.setswitchinterval(SWITCH_S)
    map_large_blocks()
    service = build_service(settings, slot)
    models = service.models
    refused: list[str] = []  # why the server ends by itself

    async def announce() -> None:
        if parent is not None:
            asyncio.get_running_loop().add_reader(parent, lambda: _parent_gone(parent, server))
        if beat is not None:
            os.set_blocking(beat, False)
            _beat(asyncio.get_running_loop(), beat)
        await models.loaded.wait()
        reason = models.reason
        if settings.exit_unless_ready and reason is not None and not models.is_draining:
            refused.append(reason)
            server.stop()
            return
        await service.front.prepare()
        spare_the_collector()
        if slot.index == 0:
            await _all_are_ready(models, service.workers)
            if settings.log_format == "text":
                hint = what_to_try(url_to_try(url_of(settings, sock)), models)
                print(hint, file=sys.stderr, flush=True)

    server = Server(service, settings, announce)
    server.run(sock)
    service.close()
    _log.info("event=stopped")
    code = 0
    if refused:  # the last line: what waits for a container shows that
        code = NOT_READY
        _log.error("event=not_ready reason=%r", refused[0])
    drain_stderr()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(0.5)
            if thread.is_alive():
                leave(code)
    return code


def url_of(settings: Settings, sock: socket.socket) -> str:
    """The address of the service as a person would type it; the port is the socket's."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "http" if settings.tls_certificate is None else "https"
    return f"{scheme}://{host}:{sock.getsockname()[1]}"


def url_to_try(url: str) -> str:
    """The same address where a person can reach it: no browser goes to 0.0.0.0 or [::]."""
    return url.replace("://0.0.0.0:", "://127.0.0.1:").replace("://[::]:", "://[::1]:")


def is_in_container() -> bool:
    """Whether a container's engine left its mark: the port is then published at another one, perhaps."""
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))


def what_to_try(url: str, models: ModelRegistry) -> str:
    """Commands that a person can type next, or why the server is not ready."""
    if models.reason is not None:
        return f"\nNot ready: {models.reason}\nStill up for a look: {url}/docs\n"
    lines = ["", f"Ready: {', '.join(f'{served.name} version {served.version}' for served in models.served)}"]
    taking_pictures = [served.name for served in models.served if unsupported_reason(served.manifest) is None]
    if taking_pictures:
        query = f"?model={taking_pictures[0]}" if len(taking_pictures) > 1 else ""
        lines.append(f"  curl --data-binary @picture.png '{url}/predict{query}'")
    name = models.names[0]
    lines += [f"  curl {url}/v2/models/{name}", f"  {url} for people, {url}/docs for programs"]
    if is_in_container():
        lines.append("From outside of this container, the port is the one that it is published at.")
    lines += ["Ctrl-C stops.", ""]
    return "\n".join(lines)


def set_up_logging(settings: Settings) -> None:
    """Log to a stderr that never waits: our own lines from `log_level` on."""
    never_wait_for_stderr()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    if settings.log_format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())
    _log.setLevel(settings.log_level.upper())


async def _all_are_ready(models: ModelRegistry, workers: WorkerGroup) -> None:
    while models.reason is None and await workers.reason() is not None:  # noqa: ASYNC110  no event of ours
        await asyncio.sleep(_ROUND_S)


def _beat(loop: asyncio.AbstractEventLoop, pipe: int) -> None:
    with contextlib.suppress(OSError):  # full, as while the parent is stopped; or the parent has gone
        os.write(pipe, b".")
    loop.call_later(_BEAT_S, _beat, loop, pipe)


def _parent_gone(parent: int, server: Server) -> None:
    asyncio.get_running_loop().remove_reader(parent)
    os.close(parent)
    server.stop()


def spare_the_collector() -> None:
    """Exempt what is alive now from garbage collection, and collect less often: a pass delays requests."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000, 20, 50)
