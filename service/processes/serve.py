"""Serve the models of a folder until told to stop: what `python -m service` does after its checks.

In: flags and FOLDSERVE_* variables.  Out: HTTP; narration on stderr; the exit code.
"""

import logging
import sys

from service.access.keys import KeyListError
from service.contract.signature import KeyFileError, read_trusted_keys
from service.models.folder import ModelsFolder
from service.models.overrides import OverridesError, read_overrides
from service.models.store import Store, StoreError
from service.processes.assemble import build_gate
from service.processes.server import bind
from service.processes.supervisor import refused_folder, supervise
from service.processes.tls import TlsError, tls_context
from service.processes.worker import run_worker, set_up_logging, url_of
from service.read_settings import SettingsError, read_settings
from service.settings import Settings
from service.telemetry.tracing import TracingError, check_tracing
from service.telemetry.worker_group import WorkerSlot

_log = logging.getLogger("foldserve")


def serve(arguments: list[str], *, prog: str, is_compiled: bool) -> int:
    """Serve as the flags say; `prog` is what --help calls the command.

    Returns the exit code: 0 after a signal, 2 if it could not start.
    """
    try:
        settings = read_settings(arguments, prog=prog)
    except SettingsError as error:
        return _refuse(f"{error}; see --help")
    if (reason := refusal(settings)) is not None:
        return _refuse(reason)
    if settings.workers > 1 and (refused := refused_folder(settings.workers)):
        return _refuse(refused)
    try:
        sockets = bind(settings.host, settings.port, settings.workers)
    except (OSError, UnicodeError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else error
        return _refuse(f"cannot listen on {settings.host}:{settings.port}: {cause}")
    set_up_logging(settings)
    _log.info(
        "event=listening url=%s models=%s threads=%d workers=%d compiled=%s",
        *(url_of(settings, sockets[0]), settings.models, settings.threads, settings.workers),
        "yes" if is_compiled else "no",
    )
    if settings.workers > 1:
        return supervise(settings, sockets)
    return run_worker(settings, sockets[0], WorkerSlot())


def refusal(settings: Settings) -> str | None:
    """Why nothing can be served by these settings, in one sentence, or None: what they name is read once."""
    try:
        if settings.trace_endpoint is not None:
            check_tracing()
        if settings.require_signature is not None:
            read_trusted_keys(settings.require_signature)
        build_gate(settings)
        read_overrides(settings.model_settings, largest=settings.buckets[-1], threads=settings.worker_threads)
        tls_context(settings)
    except (TracingError, KeyFileError, KeyListError, TlsError, OverridesError) as error:
        return str(error)
    try:
        if settings.store is not None:
            Store(settings.store, settings.models_folder)
            settings.models_folder.mkdir(parents=True, exist_ok=True)
        elif not settings.models_folder.is_dir():
            return f"there is no folder '{settings.models}'; --models names the folder of bundles"
        ModelsFolder.find(settings.models_folder, settings.model_name).names()
    except OSError as error:
        return f"the folder '{settings.models_folder}' cannot be read: {error.strerror}"
    except (StoreError, ValueError) as error:
        return str(error)
    return None


def _refuse(reason: str) -> int:
    print(f"foldserve: {reason}", file=sys.stderr)
    return 2
