"""`python -m service`: serve the models of a folder until told to stop.

In: flags and FOLDSERVE_* variables.
Out: HTTP; narration on stderr; exit code 0 after a signal, 2 if it could not start.
"""

import os
import signal

# As process 1 of a container, Python would miss a SIGTERM that comes while it still imports.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

import gc
import logging
import sys
import threading

from service.app import build_app, build_models
from service.models import Models
from service.predict import why_not
from service.repository import find_models
from service.server import Server, bind, leave, uvicorn_config
from service.settings import Settings, SettingsError, read_settings

_log = logging.getLogger("foldserve")


def main(arguments: list[str]) -> int:
    """Serve; the exit code."""
    try:
        settings = read_settings(arguments)
    except SettingsError as error:
        return _refuse(f"{error}; see --help")
    try:
        if not settings.models.is_dir():
            return _refuse(f"there is no folder '{settings.models}'; --models names the folder of bundles")
        find_models(settings.models)
    except OSError as error:
        return _refuse(f"the folder '{settings.models}' cannot be read: {error.strerror}")
    try:
        sock = bind(settings.host, settings.port)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return _refuse(f"cannot listen on {settings.host}:{settings.port}: {reason}")
    _set_up_logging(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{sock.getsockname()[1]}"
    models = build_models(settings)

    async def announce() -> None:
        await models.loaded.wait()
        _spare_the_collector()
        print(what_to_try(url, models), file=sys.stderr, flush=True)

    config = uvicorn_config(build_app(settings, models), shutdown_timeout_s=settings.shutdown_timeout_s)
    server = Server(config, models=models, drain_delay_s=settings.drain_delay_s, announce=announce)
    _log.info("event=listening url=%s models=%s threads=%d", url, settings.models, settings.threads)
    server.run(sockets=[sock])
    _log.info("event=stopped")
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(0.5)
            if thread.is_alive():
                leave(0)
    return 0


def what_to_try(url: str, models: Models) -> str:
    """What a person can type next, or why nothing will answer."""
    if models.reason is not None:
        return f"\nNot ready: {models.reason}\nStill up for a look: {url}/docs\n"
    lines = ["", f"Ready: {', '.join(f'{served.name} version {served.version}' for served in models.served)}"]
    seeing = [served.name for served in models.served if why_not(served.manifest) is None]
    if seeing:
        query = f"?model={seeing[0]}" if len(seeing) > 1 else ""
        lines.append(f"  curl --data-binary @picture.png '{url}/predict{query}'")
    name = models.names[0]
    lines += [f"  curl {url}/v2/models/{name}", f"  {url}/docs", "Ctrl-C stops.", ""]
    return "\n".join(lines)


def _spare_the_collector() -> None:
    """What is alive now stays alive: let garbage collection pass over it, and run more seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _set_up_logging(settings: Settings) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    _log.setLevel(settings.log_level.upper())
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


def _refuse(reason: str) -> int:
    print(f"foldserve: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
