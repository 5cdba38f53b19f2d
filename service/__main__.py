"""`python -m service`: serve the models of a folder until told to stop.

In: flags and FOLDSERVE_* variables.
Out: HTTP; narration on stderr; exit code 0 after a signal, 2 if it could not start.
"""

import gc
import os
import signal

if __name__ == "__main__":
    # As process 1 of a container, Python would miss a SIGTERM that comes while it still imports.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # What is imported stays: looking for garbage meanwhile, and for plugins, only makes the start slower.
    gc.disable()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

import logging
import sys

from service import COMPILED
from service.contract.signature import KeyFileError, read_trusted_keys
from service.models.repository import find_models
from service.processes.server import bind
from service.processes.supervisor import supervise
from service.processes.worker import run_worker, set_up_logging, url_of
from service.settings import SettingsError, read_settings
from service.telemetry.tracing import TracingError, check_tracing
from service.telemetry.worker_group import WorkerSlot

_log = logging.getLogger("foldserve")


def main(arguments: list[str]) -> int:
    """Serve; the exit code."""
    try:
        settings = read_settings(arguments)
    except SettingsError as error:
        return _refuse(f"{error}; see --help")
    try:
        if settings.trace_endpoint is not None:
            check_tracing()
        if settings.require_signature is not None:
            read_trusted_keys(settings.require_signature)
    except (TracingError, KeyFileError) as error:
        return _refuse(str(error))
    try:
        if not settings.models.is_dir():
            return _refuse(f"there is no folder '{settings.models}'; --models names the folder of bundles")
        find_models(settings.models)
    except OSError as error:
        return _refuse(f"the folder '{settings.models}' cannot be read: {error.strerror}")
    try:
        sockets = bind(settings.host, settings.port, settings.workers)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return _refuse(f"cannot listen on {settings.host}:{settings.port}: {reason}")
    set_up_logging(settings)
    _log.info(
        "event=listening url=%s models=%s threads=%d workers=%d compiled=%s",
        *(url_of(settings, sockets[0]), settings.models, settings.threads, settings.workers),
        "yes" if COMPILED else "no",
    )
    if settings.workers > 1:
        return supervise(settings, sockets)
    return run_worker(settings, sockets[0], WorkerSlot())


def _refuse(reason: str) -> int:
    print(f"foldserve: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
