"""The rate of each client: a token bucket that never gives more than it should, and who a client is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access import rate as module
from service.access.rate import Proxies, RateLimit
from service.errors import TooManyRequests


@given(
    st.floats(0.5, 50),
    st.floats(1, 20),
    st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_never_more_than_burst_and_rate_allow(rate: float, burst: float, pauses: list[float]) -> None:
    now = [0.0]
    limit = RateLimit(rate, burst, lambda: now[0])
    times: list[float] = []
    for pause in pauses:
        now[0] += pause
        try:
            limit.take("a")
        except TooManyRequests:
            continue
        times.append(now[0])
    for first in range(len(times)):
        for last in range(first, len(times)):
            window = times[last] - times[first]
            assert last - first + 1 <= max(1.0, burst) + rate * window + 1e-6


def test_who_waits_as_told_is_let_in() -> None:
    now = [0.0]
    limit = RateLimit(2.0, 1.0, lambda: now[0])
    limit.take("a")
    with pytest.raises(TooManyRequests) as refused:
        limit.take("a")
    now[0] += refused.value.retry_after_s
    limit.take("a")


def test_clients_do_not_share_a_bucket_and_old_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CLIENTS", 3)
    limit = RateLimit(1.0, 1.0, lambda: 0.0)
    for client in "abcde":
        limit.take(client)
    assert len(limit) == 3
    with pytest.raises(TooManyRequests):
        limit.take("e")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", b"1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", b"6.6.6.6, 1.2.3.4", "1.2.3.4"),  # the client wrote the first one itself
        ("10.0.0.1", b"1.2.3.4, 10.0.0.7", "1.2.3.4"),
        ("10.0.0.1", b"10.0.0.9, 10.0.0.7", "10.0.0.9"),
        ("10.0.0.1", b"unknown", "10.0.0.1"),
        ("10.0.0.1", b"1.2.3.4, nonsense", "10.0.0.1"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("8.8.8.8", b"1.2.3.4", "8.8.8.8"),  # not a proxy of ours: not believed
        ("::1", b"2001:db8::1", "2001:db8::1"),
    ],
)
def test_who_asks(peer: str, forwarded: bytes | None, client: str) -> None:
    assert Proxies(["10.0.0.0/8", "::1"]).client_of(peer, forwarded) == client


def test_without_trusted_proxies_no_header_is_believed() -> None:
    assert Proxies().client_of("10.0.0.1", b"1.2.3.4") == "10.0.0.1"


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Proxies(["nonsense"])
