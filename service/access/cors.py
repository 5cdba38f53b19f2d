"""Cross-origin requests: which pages of other origins may read what this service answers.

In: the allowed origins, a request's Origin.  Out: header lines (WHATWG Fetch, "CORS protocol").

The application answers preflight requests (routes/app.py); here are the lines of the hot route's own answers.
"""

from collections.abc import Sequence

EXPOSED = (
    "inference-header-content-length",
    "retry-after",
    "server-timing",
    "x-model-precision",
    "x-model-version",
    "x-request-id",
)


class Cors:
    """The origins of one server; `*` allows every page."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)
        self._exposed = b"access-control-expose-headers: %b\r\n" % ", ".join(EXPOSED).encode()

    def lines(self, origin: bytes | None) -> bytes:
        """Header lines that let a page of `origin` read the answer; none if it may not, or is no page."""
        if origin is None:
            return b""
        if b"*" in self._origins:
            return b"access-control-allow-origin: *\r\n" + self._exposed
        if origin in self._origins:
            return b"access-control-allow-origin: %b\r\nvary: Origin\r\n%b" % (origin, self._exposed)
        return b"vary: Origin\r\n"
