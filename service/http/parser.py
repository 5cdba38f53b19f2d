"""From the bytes of a connection to the heads and bodies of its requests, within the limits.

In: bytes as they come.  Out: a call for each head, each part of a body, each end; Refused if they cannot be
HTTP or are too many.

httptools parses. What it leaves to us: that an Upgrade is declined, which transfer encodings there are, and
that heads, trailers and the framing of chunks do not grow without bound.
"""

from collections.abc import Callable
from typing import Any

import httptools

from service.http.limits import HttpLimits
from service.http.reply import Headers


class Refused(Exception):  # noqa: N818
    """The bytes are refused: `status` and a message for the client; nothing after them can be understood."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Head:
    """The request line and headers of one request; header names are in lower case."""

    __slots__ = (
        "expects_continue",
        "headers",
        "is_http_1_0",
        "keep_alive",
        "length",
        "method",
        "num_bytes",
        "path",
        "url",
    )

    def __init__(
        self,
        method: bytes,
        url: bytes,
        headers: Headers,
        *,
        length: int,
        expects_continue: bool,
        is_http_1_0: bool,
        keep_alive: bool,
        num_bytes: int,
    ) -> None:
        self.method = method
        self.url = url
        self.path = _path_of(url)
        self.headers = headers
        self.length = length  # of the body; −1 if it is chunked
        self.expects_continue = expects_continue
        self.is_http_1_0 = is_http_1_0
        self.keep_alive = keep_alive
        self.num_bytes = num_bytes


class RequestParser:
    """Parses the requests of one connection."""

    def __init__(
        self,
        limits: HttpLimits,
        on_head: Callable[[Head], None],
        on_part: Callable[[bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self.head_bytes = 0  # of a head that has begun and is not whole
        self.body_left = 0  # of a body whose length is known
        self._limits = limits
        self._on_head = on_head
        self._on_part = on_part
        self._on_end = on_end
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._header_bytes = 0
        self._is_in_head = False
        self._is_chunked = False  # a chunked body has begun and is not whole
        self._framing_bytes = 0  # of a chunked body: everything that is not content
        self._trailer_bytes = 0  # of a chunked body, since its last content
        self._upgrade_framing = b""  # how the body of a request is framed whose Upgrade was declined
        self._is_replaying = False
        self._refusal: Refused | None = None
        self._parser: Any = self._new_parser()

    def close(self) -> None:
        """Parse no more: let go of httptools' parser, which holds this one, and of what was parsed.

        Garbage collection is seldom (see worker.py), and a refused client's connection stays for a while.
        """
        self._parser = self._refusal = None
        self._url = b""
        self._headers = []

    def feed(self, data: bytes | memoryview) -> None:
        """Parse; raises Refused, after which there must be no further call."""
        num_bytes = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The parser gives up on the body after the head, which is plain HTTP as we do not upgrade. A new
            # one is shown a head with the same framing, and so reads the body, chunked or not.
            self._parser = self._new_parser()
            self._is_replaying = True
            framing, self._upgrade_framing = self._upgrade_framing, b""
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % framing)
            if rest := bytes(data[upgrade.args[0] :]):
                self.feed(rest)
            return
        except httptools.HttpParserCallbackError as error:
            if self._refusal is not None:
                raise self._refusal from None
            raise error.__context__ or error from None  # a fault of ours, not of the client
        except httptools.HttpParserError:
            raise Refused(400, "Invalid HTTP request received.") from None
        if self._is_in_head:
            self.head_bytes += num_bytes
            self._check_head(self.head_bytes)
        elif self._is_chunked:
            self._count_framing(num_bytes)

    def on_message_begin(self) -> None:
        """Called by httptools, as all of the following."""
        if not self._is_replaying:
            self._url = b""
            self._headers = []
            self._header_bytes = self.head_bytes = 0
            self._is_in_head = True

    def on_url(self, url: bytes) -> None:
        if not self._is_in_head:
            return
        self._url += url
        if len(self._url) > self._limits.max_target_bytes:
            limit = self._limits.max_target_bytes
            self._refusal = Refused(414, f"the request's target has more than {limit} bytes")
            raise self._refusal

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_in_head:  # a trailer, or replayed
            return
        if len(self._headers) == self._limits.max_headers:  # each takes a hundred bytes, however short it is
            self._refusal = Refused(431, f"the request has more than {self._limits.max_headers} headers")
            raise self._refusal
        self._headers.append((name.lower(), value))
        self._header_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        if self._is_replaying:
            self._is_replaying = False
            return
        self._is_in_head = False
        self.head_bytes = 0
        try:
            head = self._head()
        except Refused as refused:  # httptools would replace it by an error of its own
            self._refusal = refused
            raise
        self._on_head(head)

    def on_body(self, part: bytes) -> None:
        if self._is_chunked:
            self._framing_bytes -= len(part)
            self._trailer_bytes = 0
        else:
            self.body_left -= len(part)
        self._on_part(part)

    def on_message_complete(self) -> None:
        if not self._upgrade_framing:
            self._is_chunked = False
            self._on_end()

    def _head(self) -> Head:
        length, expects_continue, coding = 0, False, b""
        for name, value in self._headers:
            if name == b"content-length":
                length = int(value)  # the parser has refused what is not a number
            elif name == b"transfer-encoding":
                coding += b", " + value if coding else value
            elif name == b"expect":
                expects_continue = value.lower() == b"100-continue"
        self._check_head(len(self._url) + self._header_bytes)
        if coding:
            if coding.strip().lower() != b"chunked":
                named = coding.decode("latin-1")[:40]
                raise Refused(501, f"Transfer-Encoding '{named}' is not supported, only chunked")
            length = -1
        if self._parser.should_upgrade():
            framing = b"transfer-encoding: chunked\r\n" if length < 0 else b"content-length: %d\r\n" % length
            self._upgrade_framing = framing
        self.body_left = max(0, length)
        self._is_chunked = length < 0
        self._framing_bytes = self._trailer_bytes = 0
        is_http_1_0 = self._parser.get_http_version() == "1.0"
        return Head(
            self._parser.get_method(),
            self._url,
            self._headers,
            length=length,
            expects_continue=expects_continue,
            is_http_1_0=is_http_1_0,
            keep_alive=not is_http_1_0 and self._parser.should_keep_alive(),
            num_bytes=len(self._url) + self._header_bytes,
        )

    def _check_head(self, num_bytes: int) -> None:
        if num_bytes > self._limits.max_head_bytes:
            raise Refused(431, f"the request's head has more than {self._limits.max_head_bytes} bytes")

    def _count_framing(self, num_bytes: int) -> None:
        limits = self._limits
        self._framing_bytes += num_bytes
        self._trailer_bytes += num_bytes
        if self._trailer_bytes > limits.max_head_bytes:
            raise Refused(431, f"the body's trailers have more than {limits.max_head_bytes} bytes")
        if self._framing_bytes > limits.max_body_bytes + limits.max_head_bytes:
            limit = f"{limits.max_body_bytes} bytes (FOLDSERVE_MAX_BODY_MB)"
            raise Refused(413, f"the framing of the body's chunks has more than {limit}")

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What comes after a request that ends the connection is ignored by the connection, and no error.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser


def _path_of(url: bytes) -> bytes:
    """The path in a request's target, which may be a whole address (RFC 9112, 3.2.2)."""
    if not url.startswith(b"/"):
        try:
            url = httptools.parse_url(url).path or b""
        except httptools.HttpParserInvalidURLError:
            raise Refused(400, "Invalid HTTP request received.") from None
    return url.partition(b"?")[0]
