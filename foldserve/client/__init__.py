"""A client of a running service, for programs: labels of pictures, answers to arrays.

    from foldserve.client import Client

    with Client("http://127.0.0.1:8000") as client:
        print(client.predict("seven.png").label)            # a path, bytes, a Pillow picture, uint8 pixels
        logits = client.infer("digits", rows_nchw).outputs["logits"]

`AsyncClient` has the same methods, to be awaited.  Both need pip install 'foldserve[client]'.

What fails for the moment is tried again: no connection, 429, 502, 503, with the pause that `Retry-After` asks
for.  `timeout_s` is for a whole call, its pauses included.  Errors are typed, see errors.py.
"""

from foldserve.client.clients import AsyncClient as AsyncClient
from foldserve.client.clients import Client as Client
from foldserve.client.errors import BadRequest as BadRequest
from foldserve.client.errors import ClientError as ClientError
from foldserve.client.errors import DeadlineExceeded as DeadlineExceeded
from foldserve.client.errors import Denied as Denied
from foldserve.client.errors import NotFound as NotFound
from foldserve.client.errors import ServerFailed as ServerFailed
from foldserve.client.errors import TooManyRequests as TooManyRequests
from foldserve.client.errors import Unavailable as Unavailable
from foldserve.client.errors import Unreachable as Unreachable
from foldserve.client.wire import Answer as Answer
from foldserve.client.wire import Prediction as Prediction
