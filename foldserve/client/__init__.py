"""A client of a running service, for programs: labels of pictures, answers to arrays.

    from foldserve.client import Client

    with Client("http://127.0.0.1:8000") as client:
        print(client.predict("seven.png").label)            # a path, bytes, a Pillow picture, uint8 pixels
        logits = client.infer("digits", rows_nchw).outputs["logits"]

`AsyncClient` has the same methods, to be awaited.  It needs httpx and NumPy: pip install 'foldserve[client]'.

What fails for the moment is tried again: no connection, 429, 502, 503, with the pause that `Retry-After` asks
for.  `timeout_s` is for a whole call, its pauses included.  Errors are typed, see errors.py.
"""

from foldserve.client.clients import AsyncClient, Client
from foldserve.client.errors import (
    BadRequest,
    ClientError,
    DeadlineExceeded,
    Denied,
    NotFound,
    ServerFailed,
    TooManyRequests,
    Unavailable,
    Unreachable,
)
from foldserve.client.wire import Answer, Prediction

__all__ = [
    "Answer",
    "AsyncClient",
    "BadRequest",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "Denied",
    "NotFound",
    "Prediction",
    "ServerFailed",
    "TooManyRequests",
    "Unavailable",
    "Unreachable",
]
