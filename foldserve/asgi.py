"""The service as an ASGI application, for hosts that bring their own HTTP server.

    FOLDSERVE_MODELS=models uvicorn foldserve.asgi:app
    app = AsgiService(["--models", "models"])

What it takes and gives: service/asgi.py.
"""

from foldserve.__main__ import find_packages

find_packages()

from service.asgi import AsgiService, app  # noqa: E402

__all__ = ["AsgiService", "app"]
