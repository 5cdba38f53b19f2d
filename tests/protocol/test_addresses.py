"""Any method at any address of a real server gets an answer, and an error is always {"error": "…"}."""

import string
from urllib.parse import quote

import httpx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from service_kit import Server

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "BREW")
WORDS = (
    "v2",
    "models",
    "digits",
    "a model",
    "versions",
    "1",
    "01",
    "-1",
    "infer",
    "ready",
    "config",
    "stats",
    "health",
)
MORE = (
    "live",
    "repository",
    "index",
    "load",
    "unload",
    "predict",
    "metrics",
    "..",
    "",
    "\0",
    "é",
    "%2F",
)
SEGMENTS = st.sampled_from([*WORDS, *MORE]) | st.text(string.printable, max_size=5)
BODIES = st.sampled_from([b"", b"{}", b"[]", b"{", b"null", b'{"inputs":[]}', b"\xff\x00"])


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@example(method="GET", segments=["", "", "", "v2"], body=b"")
@given(method=st.sampled_from(METHODS), segments=st.lists(SEGMENTS, max_size=7), body=BODIES)
def test_case_9_any_method_and_address(
    server: Server, client: httpx.Client, method: str, segments: list[str], body: bytes
) -> None:
    path = "/" + "/".join(quote(segment, safe="") for segment in segments)
    answer = client.request(method, f"{server.url}{path}", content=body)
    assert answer.status_code < 500 or answer.status_code in (501, 503), (method, path, answer.text)
    if answer.status_code >= 400 and method != "HEAD":
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["error"]
