"""A body in parts: the same bytes in order, however they come and whatever was announced."""

import tracemalloc
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.direct import DirectExchange
from service.http.limits import HttpLimits
from service.http.parser import Head
from service.http.shared import Shared
from service.isolation import gathered
from service.isolation.gathered import MOVES_AT, Gathered


@given(parts=st.lists(st.binary(max_size=40)), num_expected=st.integers(0, 400), moves_at=st.integers(0, 120))
def test_it_is_its_parts_joined(parts: list[bytes], num_expected: int, moves_at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathered, "MOVES_AT", moves_at)
        body = Gathered(num_expected)
        for index, part in enumerate(parts):
            body.add(part)
            assert bytes(body.content) == b"".join(parts[: index + 1])
            assert len(body.content) == body.num_bytes


def test_a_long_body_is_not_moved_again_and_again() -> None:
    """It moves once, at 4 MiB: its memory is asked for once, and for all that is announced."""
    part = bytes(256 << 10)
    body = Gathered(16 * len(part) * 4)
    for _ in range(MOVES_AT // len(part)):
        body.add(part)
    before = np.frombuffer(body.content, np.uint8)
    tracemalloc.start()
    try:
        for _ in range(3 * MOVES_AT // len(part)):
            body.add(part)
        after = np.frombuffer(body.content, np.uint8)
        assert tracemalloc.get_traced_memory()[1] < len(part)
    finally:
        tracemalloc.stop()
    assert (before.ctypes.data, len(after)) == (after.ctypes.data, 4 * MOVES_AT)


def test_what_is_announced_takes_no_memory_before_much_has_come() -> None:
    body = Gathered(1 << 40)
    body.add(bytes(MOVES_AT - 1))
    assert type(body.content) is bytearray


def test_a_request_that_waits_for_its_turn_takes_no_more_than_a_body_may_have() -> None:
    """Its length is compared with the limit when its turn comes; until then it may say anything."""
    shared = Shared(Mock(), Mock(), HttpLimits())
    head = Head(
        b"POST",
        b"/v2/models/m/infer",
        [],
        length=1 << 62,
        expects_continue=False,
        is_http_1_0=False,
        keep_alive=True,
        num_bytes=30,
    )
    exchange = DirectExchange(Mock(), shared, head)
    for _ in range(3):
        exchange.add(b"a" * (MOVES_AT // 2))
    assert bytes(exchange.body) == b"a" * (3 * MOVES_AT // 2)
