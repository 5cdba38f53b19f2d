"""What can go wrong, by what the caller can do about it: each class says for which statuses it stands."""

# ruff: noqa: N818

import httpx

_BY_STATUS: dict[int, type["ClientError"]] = {}


class ClientError(Exception):
    """No answer; `status` and `request_id` are the response's, where there was one.

    `may_pass`: sent again, the request may succeed.
    """

    may_pass = False

    def __init_subclass__(cls, statuses: tuple[int, ...] = (), may_pass: bool = False) -> None:
        _BY_STATUS.update(dict.fromkeys(statuses, cls))
        cls.may_pass = may_pass

    def __init__(self, message: str, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id


class BadRequest(ClientError, statuses=(400, 413, 415, 422)):
    """The model, or the protocol, does not accept what was sent."""


class Denied(ClientError, statuses=(401, 403)):
    """The API key is missing or unknown, or its scopes do not include this route."""


class NotFound(ClientError, statuses=(404,)):
    """No such model or version."""


class TooManyRequests(ClientError, statuses=(429,), may_pass=True):
    """More requests than one client may send, also after the retries."""


class Unavailable(ClientError, statuses=(502, 503), may_pass=True):
    """The server is overloaded, not ready or shutting down, also after the retries."""


class ServerFailed(ClientError):
    """The server failed on this request: any other status."""


class Unreachable(ClientError, may_pass=True):
    """There was no connection, or it broke before the answer, also after the retries."""


class DeadlineExceeded(ClientError, TimeoutError, statuses=(504,)):
    """`timeout_s` has passed, here or on the server; also a TimeoutError."""


def error_of(response: httpx.Response) -> ClientError:
    """The typed error of an answer that is no 2xx, with the sentence of its body."""
    try:
        message = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):  # a proxy's page, or no service at all
        message = f"{response.request.url} answered {response.status_code} {response.reason_phrase}"
    kind = _BY_STATUS.get(response.status_code, ServerFailed)
    return kind(message, response.status_code, response.headers.get("x-request-id"))
