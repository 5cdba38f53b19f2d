"""What one client, and all of them together, may cost: bytes and seconds.

In: numbers, most of them settings.  Out: a frozen `HttpLimits`, checked once.

A refusal names the limit that it comes from: 408, 413, 414, 431 or 503 as {"error": "…"}
(docs/decisions/0023).
"""

from dataclasses import dataclass, fields

KIB = 1024
MIB = 1024 * KIB
START_BYTES = 64 * KIB  # of a body: a longer one is refused as soon as these decide that


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """Sizes in bytes, times in seconds; raises ValueError if one is not positive."""

    max_body_bytes: int = 64 * MIB  # a body, chunks joined, before it is decompressed
    max_inflight_bytes: int = 256 * MIB  # requests and answers of all connections, from first to last byte
    max_connections: int = 1024
    body_timeout_s: float = 300.0  # a whole body, from its turn on
    write_timeout_s: float = 120.0  # until what was written has left this process

    max_head_bytes: int = 128 * KIB  # request line and headers; the trailers of a chunked body, again
    max_target_bytes: int = 8 * KIB  # path and query: each byte costs time in routes and logs
    max_headers: int = 128
    head_timeout_s: float = 20.0  # a head, from its first byte to its last
    body_pause_s: float = 60.0  # no byte of a body at all
    keep_alive_s: float = 75.0  # as nginx: longer than clients keep a connection in their pools unused
    max_drained_bytes: int = 2 * MIB  # of a refused body, so that the connection can go on after it
    linger_s: float = 2.0  # discarding what a refused client still sends, so that it can read why

    max_pending_bytes: int = 64 * KIB  # written, but not read by the client: the next request waits
    free_bytes: int = 64 * KIB  # of each connection, not counted in max_inflight_bytes

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be positive, got {getattr(self, field.name)}")
