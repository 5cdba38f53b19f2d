"""What an attack is: bytes that a hostile client sends on its connections, again and again.

In: requests made by code.  Out: `Attack`s for `python -m benchmarks.attacks`.
"""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass

MB = 1 << 20
INFER = "/v2/models/digits/infer"


@dataclass(frozen=True, kw_only=True)
class Attack:
    """What each connection of an attacker sends, and how it behaves meanwhile."""

    name: str
    parts: Sequence[bytes]  # in this order
    pause_s: float = 0.0  # after each part
    hangs_up: bool = False  # shortly after it has sent all
    reads: bool = True
    width: int = 1  # connections of one attacker; there are several attackers

    @property
    def num_bytes(self) -> int:
        """What a connection sends, all parts together."""
        return sum(map(len, self.parts))


def request(target: str, body: bytes = b"", *headers: str, method: str = "POST") -> bytes:
    """A whole request with a body of known length."""
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(target: str, *chunks: bytes) -> bytes:
    """The head of a request in chunks, and what follows it, unchecked."""
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"".join(chunks)


def predict(name: str, body: bytes, *headers: str, hangs_up: bool = False) -> Attack:
    """One body for POST /predict."""
    return Attack(name=name, parts=[request("/predict", body, *headers)], hangs_up=hangs_up)


def infer(name: str, body: bytes, *headers: str, hangs_up: bool = False) -> Attack:
    """One body for the model's POST …/infer."""
    return Attack(name=name, parts=[request(INFER, body, *headers)], hangs_up=hangs_up)


def zipped(name: str, body: bytes, *, hangs_up: bool = False) -> Attack:
    """The same, compressed."""
    compressed = gzip.compress(body, 6)
    return infer(f"{name}, gzip", compressed, "Content-Encoding: gzip", hangs_up=hangs_up)
