"""HTTP/1.1 on a bare socket: bytes out as a test wants them, answers in one by one.

In: a port.  Out: a `Wire`, which reads exactly one answer at a time and keeps what follows it.
"""

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service_kit import x_request
from tiny_nets import echo_net, write_bundle

INFER = "/v2/models/echo/infer"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer as it stood on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> list[float]:
        """The first output's numbers."""
        assert self.status == 200, self
        numbers: list[float] = self.json()["outputs"][0]["data"]
        return numbers


class Wire:
    """A client's end of one connection."""

    def __init__(self, port: int, *, timeout_s: float = 30, receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout_s)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._kept = b""

    def send(self, *parts: bytes) -> "Wire":
        self.sock.sendall(b"".join(parts))
        return self

    def read(self) -> Answer:
        """The next answer; an interim one (1xx) has no body."""
        while b"\r\n\r\n" not in self._kept:
            self._more()
        head, _, self._kept = self._kept.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        protocol, status = first.split(" ")[:2]
        assert protocol == "HTTP/1.1", first
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(self._kept) < length:
            self._more()
        body, self._kept = self._kept[:length], self._kept[length:]
        return Answer(status=int(status), headers=headers, body=body)

    def is_closed(self) -> bool:
        """Whether the server says nothing more and closes."""
        try:
            return self._kept == b"" and self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def _more(self) -> None:
        part = self.sock.recv(1 << 16)
        assert part, f"the connection was closed in the middle of {self._kept[:300]!r}"
        self._kept += part


@contextlib.contextmanager
def wire(port: int, **options: Any) -> Iterator[Wire]:
    """A connection that is closed after the block."""
    opened = Wire(port, **options)
    try:
        yield opened
    finally:
        opened.sock.close()


def until_closed(port: int, request: bytes) -> bytes:
    """What comes back for bytes on a socket, until the server closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(request)
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def x_body(*numbers: float) -> bytes:
    """JSON for rows of three numbers."""
    return json.dumps(x_request(list(numbers), shape=[len(numbers) // 3, 3])).encode()


def post(body: bytes, *headers: str, path: str = INFER, has_length: bool = True) -> bytes:
    """A whole request, or its head alone if `body` is empty and `headers` tell the length."""
    lines = [f"POST {path} HTTP/1.1", "host: x", *headers]
    if has_length:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(path: str, *headers: str) -> bytes:
    """A GET."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: x", *headers, "", ""]).encode()


EDGE_FLAGS = ("--max-body-mb", "1", "--lanes", "1", "--shutdown-timeout-s", "2")


def write_echo(models: Path) -> Path:
    """A models folder with `echo`."""
    write_bundle(models / "echo" / "1", echo_net("float32"))
    return models


def works(line: Wire) -> bool:
    """The next request on the same connection gets its own answer."""
    return line.send(post(x_body(7, 8, 9))).read().data == [7, 8, 9]
