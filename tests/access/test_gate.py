"""The gate: which routes need what, and that no header or spelling of a path gets around it."""

import hashlib

import pytest

from service.access.gate import Gate, scope_of
from service.access.keys import ApiKey, ApiKeys
from service.access.rate import Proxies, RateLimit
from service.errors import Forbidden, TooManyRequests, Unauthorized

# sha256 of b"infer-secret" and b"ops-secret"
INFER = ApiKey("shop", frozenset({"infer"}), hashlib.sha256(b"infer-secret").digest())
OPS = ApiKey("ops", frozenset({"admin", "metrics"}), hashlib.sha256(b"ops-secret").digest())


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/v2/health/live", None),
        ("/v2/health/ready", None),
        ("/docs", None),
        ("/v2/models/m/infer", "infer"),
        ("/predict", "infer"),
        ("/v2/models/m", "infer"),
        ("/v2/repository/index", "infer"),
        ("/metrics", "metrics"),
        ("/v2/models/stats", "metrics"),
        ("/v2/models/m/versions/1/stats", "metrics"),
        ("/v2/repository/models/m/load", "admin"),
        ("/v2/repository/models/m/unload", "admin"),
        ("/v2/health/ready/../../repository/models/m/load", "infer"),  # no such route: not open either
        ("/docs/../v2/models/m/infer", None),  # no such route: 404
    ],
)
def test_what_a_path_needs(path: str, scope: str | None) -> None:
    assert scope_of(path) == scope


def test_keys_by_either_header() -> None:
    gate = Gate(ApiKeys((INFER, OPS)), None, Proxies())
    gate.check("POST", "/predict", [(b"authorization", b"Bearer infer-secret")], "1.1.1.1")
    gate.check("POST", "/predict", [(b"x-api-key", b"infer-secret")], "1.1.1.1")
    gate.check("POST", "/metrics", [(b"x-api-key", b"ops-secret")], "1.1.1.1")
    gate.check("POST", "/v2/health/ready", [], "1.1.1.1")
    with pytest.raises(Unauthorized):
        gate.check("POST", "/predict", [], "1.1.1.1")
    with pytest.raises(Forbidden):
        gate.check("POST", "/v2/repository/models/m/load", [(b"x-api-key", b"infer-secret")], "1.1.1.1")


def test_a_rate_is_of_a_key_or_else_of_an_address() -> None:
    by_key = Gate(ApiKeys((INFER,)), RateLimit(1, 2, lambda: 0.0), Proxies())
    for peer in ("1.1.1.1", "2.2.2.2"):
        by_key.check("POST", "/predict", [(b"x-api-key", b"infer-secret")], peer)
    with pytest.raises(TooManyRequests):
        by_key.check("POST", "/predict", [(b"x-api-key", b"infer-secret")], "3.3.3.3")
    by_key.check("POST", "/v2/health/ready", [], "3.3.3.3")

    by_address = Gate(ApiKeys(), RateLimit(1, 1, lambda: 0.0), Proxies(["10.0.0.1"]))
    by_address.check("POST", "/predict", [(b"x-forwarded-for", b"5.5.5.5")], "10.0.0.1")
    by_address.check("POST", "/predict", [(b"x-forwarded-for", b"6.6.6.6")], "10.0.0.1")
    twice = [
        (b"x-forwarded-for", b"7.7.7.7"),
        (b"x-forwarded-for", b"5.5.5.5"),
    ]  # one list
    with pytest.raises(TooManyRequests):
        by_address.check("POST", "/predict", twice, "10.0.0.1")


def test_a_browsers_preflight_carries_no_key() -> None:
    Gate(ApiKeys((INFER,)), None, Proxies()).check("OPTIONS", "/predict", [], "1.1.1.1")
