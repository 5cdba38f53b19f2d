"""A rate for each client: how many requests it may make in a second, and who a client is.

In: a client's name and the time.  Out: nothing, or TooManyRequests 429 with a Retry-After.

    tokens(t) = min(burst, tokens + rate · (t − before))        a request takes one       (token bucket)

A client is an API key's name where there are keys, else an address: the connection's own, or, if that is a
trusted proxy's, the last one in X-Forwarded-For that is not.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from time import monotonic

from service.errors import TooManyRequests

MAX_CLIENTS = 10_000  # the ones not heard of for the longest time are forgotten: their buckets are full again

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class RateLimit:
    """Buckets of `burst` tokens, filled with `rate` of them a second; belongs to one thread."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = monotonic) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str) -> None:
        """Count one request of `client`; raises TooManyRequests if it comes too early."""
        now = self._clock()
        tokens, before = self._buckets.pop(client, (self._burst, now))
        tokens = min(self._burst, tokens + self._rate * (now - before))
        allowed = tokens >= 1
        self._buckets[client] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise TooManyRequests(
                f"more than {self._rate:g} requests a second from one client",
                retry_after_s=max(1, math.ceil((1 - tokens) / self._rate)),
            )


class Proxies:
    """The addresses of proxies whose X-Forwarded-For is believed."""

    def __init__(self, networks: Sequence[str] = ()) -> None:
        """Networks such as 10.0.0.0/8, or single addresses; raises ValueError."""
        self._networks: tuple[Network, ...] = tuple(ip_network(network) for network in networks)

    def client_of(self, peer: str, forwarded_for: bytes | None) -> str:
        """Who asks: `peer` is the connection's address, `forwarded_for` the request's header.

        Read from the end: each proxy appends the address that it was reached from, and what a client wrote
        there itself stands before that.
        """
        if not self._networks or forwarded_for is None or not self._are_ours(peer):
            return peer
        client = peer
        for part in reversed(forwarded_for.decode("latin-1").split(",")):
            told = part.strip()
            if _address(told) is None:
                break
            client = told
            if not self._are_ours(told):
                break
        return client

    def _are_ours(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._networks)


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
