"""One call: a request, sent again while that can help, within one deadline.

    pause = Retry-After if the server says so, else 0.1 s · 2ⁿ · a random factor in 0.5 … 1

Every call may be repeated: an inference changes nothing on the server.
"""

import random
from typing import Any

import anyio
import httpx

from foldserve.client.errors import (
    ClientError,
    DeadlineExceeded,
    TooManyRequests,
    Unavailable,
    Unreachable,
    error_of,
)

FIRST_PAUSE_S = 0.1


async def send(
    http: httpx.AsyncClient, method: str, path: str, *, timeout_s: float, retries: int, **options: Any
) -> httpx.Response:
    """The response, a 2xx; raises a ClientError.  `options` are httpx's."""
    deadline = anyio.current_time() + timeout_s
    for attempt in range(retries + 1):
        pause_s = FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1)
        try:
            with anyio.fail_after(deadline - anyio.current_time()):
                response = await http.request(method, path, **options)
            if response.is_success:
                return response
            failure = error_of(response)
            if (asked := response.headers.get("retry-after", "")).isdigit():
                pause_s = float(asked)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {timeout_s:.3g} s") from None
        except httpx.TransportError as error:
            failure = Unreachable(f"no answer from {http.base_url}: {error or type(error).__name__}")
        is_hopeless = not isinstance(failure, (TooManyRequests, Unavailable, Unreachable))
        # What is wrong says more than that the deadline would pass meanwhile.
        if is_hopeless or attempt == retries or anyio.current_time() + pause_s >= deadline:
            raise failure
        await anyio.sleep(pause_s)
    raise ClientError(f"retries must be zero or positive, got {retries}")
