"""Processes and memory for decoding: in order, and given back in every way that waiting can end."""

import asyncio

import pytest

from service.isolation.capacity import Capacity, Lease


async def started(capacity: Capacity, num_bytes: int) -> "asyncio.Task[Lease]":
    task = asyncio.ensure_future(capacity.lease(num_bytes))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


async def test_what_fits_is_lent_at_once_and_the_rest_in_order() -> None:
    capacity = Capacity(2, 100)
    first, second = await started(capacity, 60), await started(capacity, 60)
    small = await started(capacity, 1)
    assert (first.done(), second.done(), small.done()) == (True, False, False), "nothing overtakes"
    first.result().keep_bytes(40)
    await asyncio.sleep(0)
    assert (await second, small.done()) == (second.result(), False), "two processes, 100 bytes"
    first.result().end()
    second.result().end()
    (await small).end()
    (await capacity.lease(100)).end()


@pytest.mark.parametrize("is_in_the_same_instant", [False, True])
async def test_a_cancelled_waiter_gives_its_turn_to_the_next(is_in_the_same_instant: bool) -> None:
    capacity = Capacity(1, 100)
    held = await capacity.lease(100)
    waiting, next_one = await started(capacity, 100), await started(capacity, 10)
    if is_in_the_same_instant:
        held.end()  # lends it to `waiting`, which has not been resumed yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if not is_in_the_same_instant:
        assert not next_one.done()
        held.end()
    (await asyncio.wait_for(next_one, 5)).end()
    (await asyncio.wait_for(capacity.lease(100), 5)).end()


async def test_a_lease_gives_back_once() -> None:
    capacity = Capacity(1, 100)
    lease = await capacity.lease(100)
    for _ in range(3):
        lease.keep_bytes(30)
    held = await capacity.lease(70)
    early = await started(capacity, 1)
    assert not early.done()
    for each in (lease, held, lease, held):
        each.end()
    whole = await started(capacity, 100)
    assert (early.done(), whole.done()) == (True, False), "one process and 100 bytes, however often they came"
    early.result().end()
    (await whole).end()
