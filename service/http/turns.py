"""Turns: connections with more to do than their share continue one after another.

In: connections that have asked for a turn.  Out: their turns, in the order in which they asked, a few in each
turn of the event loop.

A client that sends requests or bytes without a pause always has more to do.  Were each such connection
served in every turn of the event loop, a turn would be as long as there are connections, and a request that
needs ten turns, as /predict does, would take ten times that.
"""

import asyncio
import time
from collections import deque

from service.http.channel import Channel

TURN_S = 0.0005  # of one turn of the event loop, for all connections that have more to do
AT_ONCE = 4  # connections in it at most: what they read next comes on top


class Turns:
    """The connections that wait for a turn; belongs to one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Channel] = deque()
        self._is_scheduled = False

    def ask(self, channel: Channel) -> None:
        """Call the channel's `take_turn` once, soon: never before this call has returned."""
        self._waiting.append(channel)
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._give)

    def _give(self) -> None:
        self._is_scheduled = False
        until_s = time.perf_counter() + TURN_S
        for _ in range(min(len(self._waiting), AT_ONCE)):
            if self._waiting.popleft().take_turn() or time.perf_counter() > until_s:
                break
        if self._waiting:
            self._schedule()
