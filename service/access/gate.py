"""The gate: what every request passes before its route sees it.

In: a request's method, path and headers, and the address that it comes from.
Out: nothing, or Unauthorized 401, Forbidden 403, TooManyRequests 429.

    health, documentation, the page     open: probes and browsers carry no key
    /v2/repository/models/…             admin
    /metrics, …/stats                   metrics
    everything else                     infer

Without keys only `admin` is closed, unless the service listens on this machine alone (settings.py).
"""

from collections.abc import Iterable

from service.access.keys import ApiKeys, Scope, secret_of
from service.access.rate import Proxies, RateLimit

_OPEN = ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")
_OPEN_BELOW = ("/docs/", "/page/", "/static-offline-docs/")

Headers = Iterable[tuple[bytes, bytes]]


class Gate:
    """Keys, rates and trusted proxies of one server; belongs to its event loop."""

    def __init__(self, keys: ApiKeys, rate: RateLimit | None, proxies: Proxies) -> None:
        self._keys = keys
        self._rate = rate
        self._proxies = proxies

    def check(self, method: str, path: str, headers: Headers, peer: str) -> None:
        """Raise a ServiceError if a request from `peer` may not pass.

        `path` is the one that is routed by, percent-decoded: else %2F would lead around it.  Header names are
        in lower case.
        """
        scope = scope_of(path)
        if scope is None or method == "OPTIONS":  # a browser asks for leave before it sends the key
            return
        authorization = api_key = forwarded_for = None
        for name, value in headers:
            if name == b"authorization":
                authorization = value
            elif name == b"x-api-key":
                api_key = value
            elif name == b"x-forwarded-for":
                forwarded_for = value if forwarded_for is None else forwarded_for + b"," + value
        key = self._keys.check(secret_of(authorization, api_key), scope)
        if self._rate is not None:
            self._rate.take(key.name if key is not None else self._proxies.client_of(peer, forwarded_for))


def scope_of(path: str) -> Scope | None:
    """The scope that a path needs; None if it is open."""
    if path in _OPEN or path.startswith(_OPEN_BELOW):
        return None
    if path.startswith("/v2/repository/models/"):
        return "admin"
    if path == "/metrics" or path.endswith("/stats"):
        return "metrics"
    return "infer"
