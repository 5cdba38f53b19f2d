"""HTTP by hand, for requests that no well-meaning client sends, and for many that are under way at once.

In: a method, a path, headers, bytes.  Out: a `Reply`.
"""

import http.client
import socket
import time
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

import httpx

PATIENCE_S = 60.0


@dataclass
class Reply:
    """An answer, named as httpx names it; `is_kept`: the server keeps the connection."""

    status_code: int
    headers: httpx.Headers
    content: bytes
    is_kept: bool


class Connection:
    """One socket; requests are sent as they are given."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        name, _, port = self._host.partition(":")
        self._socket = socket.create_connection((name, int(port or 80)), timeout=PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def send(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Send a whole request; the answer can be waited for later."""
        told = {"Host": self._host, "Content-Length": str(len(body)), **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        head = f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
        self._socket.sendall(head + body)

    def receive(self, method: str = "POST", *, patience_s: float = PATIENCE_S) -> Reply:
        """The answer to what was sent."""
        self._socket.settimeout(patience_s)
        response = http.client.HTTPResponse(self._socket, method=method)
        try:
            response.begin()
            body = response.read()
            return Reply(response.status, httpx.Headers(response.getheaders()), body, not response.will_close)
        finally:
            response.close()

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
        self.send(method, path, body, headers)
        return self.receive(method)

    def close(self) -> None:
        self._socket.close()


def ask_once(
    url: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Reply:
    """One request on a connection of its own."""
    with Connection(url) as connection:
        return connection.ask(method, path, body, headers)


def settle(url: str) -> None:
    """Let a server take up what was sent to it: it answers others meanwhile, and a moment passes."""
    for _ in range(3):
        ask_once(url, "GET", "/v2/health/live")
        time.sleep(0.1)
