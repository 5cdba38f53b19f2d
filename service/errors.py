"""What a caller is told when there is no answer.

In: a sentence.  Out: an exception that carries its HTTP status and the reason that is counted.

    ServiceError
    ├── BadRequest 400 ─── BadPicture 400
    ├── Unauthorized 401        no API key, or an unknown one
    ├── Forbidden 403           the key has not the scope that the route needs
    ├── UnknownModel 404
    ├── TooLarge 413
    ├── UnknownEncoding 415
    ├── TooManyRequests 429     one client's own rate
    ├── HungUp 499              (the client is gone; only counted)
    ├── ModelFailed 500
    ├── Unsupported 501
    ├── Unavailable 503
    │   ├── NotReady            a version is loading or failed its proof
    │   │   └── NotInMemory     its first request loads it; only who cannot wait for that is refused
    │   ├── Overloaded          the queue is full
    │   └── Draining            the server is shutting down
    └── DeadlinePassed 504

The names say what happened, so that `except Overloaded` reads as it should.
"""

# ruff: noqa: N818


class ServiceError(Exception):
    """An answer other than 2xx: `status`, the `reason` that metrics count, and the message for the caller."""

    status = 500
    reason = "internal"

    @property
    def headers(self) -> dict[str, str]:
        """Headers that this error's response carries besides its content type."""
        return {}


class BadRequest(ServiceError):
    """The request is not what the protocol or the model allows."""

    status = 400
    reason = "bad_request"


class BadPicture(BadRequest):
    """The body is not a picture, or not one that we are willing to decode."""

    reason = "bad_picture"


class Unauthorized(ServiceError):
    """The request carries no API key, or one that is not known."""

    status = 401
    reason = "unauthorized"

    @property
    def headers(self) -> dict[str, str]:
        return {"www-authenticate": "Bearer"}


class Forbidden(ServiceError):
    """The request's API key is known, and does not allow this."""

    status = 403
    reason = "forbidden"


class UnknownModel(ServiceError):
    """No such model, or no such version of it."""

    status = 404
    reason = "unknown_model"


class TooLarge(ServiceError):
    """The body, as sent or once decompressed, is over the limit."""

    status = 413
    reason = "too_large"


class UnknownEncoding(ServiceError):
    """A Content-Encoding that we do not read."""

    status = 415
    reason = "unknown_encoding"

    @property
    def headers(self) -> dict[str, str]:
        return {"accept-encoding": "gzip, deflate"}


class TooManyRequests(ServiceError):
    """One client asks more often than it may; `retry_after_s` says when to ask again."""

    status = 429
    reason = "too_many_requests"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": str(self.retry_after_s)}


class HungUp(ServiceError):
    """The client closed the connection before its answer was ready."""

    status = 499
    reason = "hung_up"


class ModelFailed(ServiceError):
    """The engine raised on these rows."""

    status = 500
    reason = "model_failed"


class Unsupported(ServiceError):
    """A part of the protocol that this server does not offer."""

    status = 501
    reason = "unsupported"


class Unavailable(ServiceError):
    """Not now; `retry_after_s` says when to try again."""

    status = 503
    reason = "unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": str(self.retry_after_s)}


class NotReady(Unavailable):
    """The model is known, but no version of it (or not this one) has passed its proof."""

    reason = "not_ready"


class NotInMemory(NotReady):
    """The model is loaded when it is asked for, and is not in memory now."""


class Overloaded(Unavailable):
    """The queue is full; `retry_after_s` is how long the rows in it will take."""

    reason = "overloaded"


class Draining(Unavailable):
    """The server is shutting down: accepted work finishes, new work goes elsewhere."""

    reason = "draining"

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "connection": "close"}


class DeadlinePassed(ServiceError):
    """The request's own `timeout` passed before its answer was ready."""

    status = 504
    reason = "deadline_passed"
