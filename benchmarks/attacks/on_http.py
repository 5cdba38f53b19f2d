"""Attacks on HTTP itself: framing, heads, connections, clients that drip or never read, floods."""

from collections.abc import Callable

from benchmarks.attacks.attack import INFER, MB, Attack, chunked, request

GET = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
INDEX = "/v2/repository/index"


def _get(target: str, *headers: str) -> bytes:
    return request(target, b"", *headers, method="GET")


def _flood(name: str, one: bytes, *, reads: bool = True) -> Attack:
    """As many pipelined requests as a megabyte holds, at least one."""
    return Attack(name=name, parts=[one * max(1, MB // len(one))], reads=reads)


def _drip(name: str, one: bytes, part: bytes) -> Attack:
    return Attack(name=name, parts=[one, *[part] * 1000], pause_s=0.05, width=50)


ATTACKS: dict[str, Callable[[], Attack]] = {
    "tiny-chunks": lambda: Attack(
        name="10 MB in chunks of 2 bytes", parts=[chunked(INFER, b"2\r\nab\r\n" * (5 * MB), b"0\r\n\r\n")]
    ),
    "extensions": lambda: Attack(
        name="30 MB of chunk extensions", parts=[chunked(INFER, b"1;" + b"a=b;" * (8 * MB) + b"\r\n")]
    ),
    "trailers": lambda: Attack(
        name="40 MB of trailers", parts=[chunked(INFER, b"1\r\nx\r\n0\r\n", b"a:b\r\n" * (8 * MB))]
    ),
    "index-body": lambda: Attack(
        name="an endless body for the index",
        parts=[chunked(INDEX, (b"100000\r\n" + bytes(MB) + b"\r\n") * 128)],
    ),
    "index-json": lambda: Attack(
        name="60 MB of JSON for the index", parts=[request(INDEX, b'{"a":"' + b"a" * (60 * MB) + b'"}')]
    ),
    "headers": lambda: Attack(
        name="200,000 headers", parts=[b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 200_000 + b"\r\n"]
    ),
    "header": lambda: Attack(
        name="a request id of 1 MB", parts=[_get("/v2/models", "X-Request-Id: " + "a" * MB)]
    ),
    "ids": lambda: _flood("request ids of 100 kB", _get("/v2/models/x", "X-Request-Id: " + "a" * 100_000)),
    "targets": lambda: _flood("names of 100 kB", request("/v2/models/" + "a" * 100_000 + "/infer", b"{}")),
    "escaped": lambda: _flood("names of 100 kB, escaped", _get("/v2/models/" + "%41" * 33_000)),
    "query": lambda: _flood("queries of 100 kB", request("/predict?" + "top=1&" * 16_000, b"x")),
    "cookies": lambda: _flood("120 headers of 1 kB", _get("/docs", *[f"Cookie: {'a=b;' * 250}"] * 120)),
    "too-long": lambda: Attack(
        name="a body of 100 GB is announced",
        parts=[request(INFER)[:-5] + b"00000000000\r\n\r\n", bytes(120 * MB)],
    ),
    "expect": lambda: _flood("Expect: 100-continue", request(INFER, b"{}", "Expect: 100-continue")),
    "upgrade": lambda: _flood("upgrades", _get("/v2/health/live", "Connection: upgrade", "Upgrade: h2c")),
    "bare-lf": lambda: _flood("bare LF", b"GET / HTTP/1.1\nHost: x\n\n"),
    "absolute": lambda: _flood("absolute addresses", _get("http://x:80/v2/health/live?a=b")),
    "http-1.0": lambda: _flood("HTTP/1.0", b"GET /v2/health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    "pipelined": lambda: _flood("health, pipelined", GET),
    "pipelined-infer": lambda: _flood("broken infer, pipelined", request(INFER, b"{}")),
    "pipelined-docs": lambda: _flood("OpenAPI, pipelined", _get("/openapi.json")),
    "unread": lambda: _flood("health, pipelined and never read", GET, reads=False),
    "unread-docs": lambda: Attack(
        name="OpenAPI, never read", parts=[_get("/openapi.json") * 50], reads=False, width=50
    ),
    "unread-file": lambda: Attack(
        name="a file of 1.4 MB, never read",
        parts=[_get("/static-offline-docs/swagger-ui-bundle.js") * 3],
        reads=False,
        width=50,
    ),
    "metrics": lambda: _flood("metrics", _get("/metrics")),
    "index": lambda: _flood("repository index", request(INDEX, b"{}")),
    "load": lambda: _flood("loads with odd names", request("/v2/repository/models/..%2f..%2fetc/load")),
    "idle": lambda: Attack(name="idle connections, 1,000", parts=[], width=250),
    "many": lambda: Attack(name="idle connections, 3,000", parts=[], width=750),
    "slow-heads": lambda: _drip("heads, a byte each 50 ms", b"GET / HTTP/1.1\r\n", b"a"),
    "slow-bodies": lambda: _drip("bodies, a byte each 50 ms", request(INFER, bytes(2000))[:-2000], b"a"),
    "reconnects": lambda: Attack(
        name="connections that hang up at once", parts=[GET], hangs_up=True, width=20
    ),
}
