"""What can go wrong, by what the caller can do about it.

ClientError
├── BadRequest          400 413 415 422: the request itself is wrong
├── Denied              401 403: the API key
├── NotFound            404: no such model or version
├── TooManyRequests     429, also after the retries
├── Unavailable         502 503, also after the retries: overloaded, not ready, draining
├── ServerFailed        any other status
├── Unreachable         no connection, or one that broke, also after the retries
└── DeadlineExceeded    `timeout_s` has passed, or 504; also a TimeoutError
"""

# ruff: noqa: N818

import httpx


class ClientError(Exception):
    """No answer; `status` and `request_id` are the response's, where there was one."""

    def __init__(self, message: str, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id


class BadRequest(ClientError):
    """The model, or the protocol, does not accept what was sent."""


class Denied(ClientError):
    """The API key is missing or unknown, or its scopes do not include this route."""


class NotFound(ClientError):
    """No such model or version."""


class TooManyRequests(ClientError):
    """More requests than one client may send."""


class Unavailable(ClientError):
    """The server is overloaded, not ready or shutting down."""


class ServerFailed(ClientError):
    """The server failed on this request."""


class Unreachable(ClientError):
    """There was no connection, or it broke before the answer."""


class DeadlineExceeded(ClientError, TimeoutError):
    """The answer would have come too late."""


_BY_STATUS: dict[int, type[ClientError]] = {
    **dict.fromkeys((400, 413, 415, 422), BadRequest),
    **dict.fromkeys((401, 403), Denied),
    404: NotFound,
    429: TooManyRequests,
    **dict.fromkeys((502, 503), Unavailable),
    504: DeadlineExceeded,
}


def error_of(response: httpx.Response) -> ClientError:
    """The typed error of an answer that is no 2xx, with the sentence of its body."""
    try:
        message = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):  # a proxy's page, or no service at all
        message = f"{response.request.url} answered {response.status_code} {response.reason_phrase}"
    kind = _BY_STATUS.get(response.status_code, ServerFailed)
    return kind(message, response.status_code, response.headers.get("x-request-id"))
