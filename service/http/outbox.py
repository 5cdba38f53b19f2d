"""The outbox: answers that are ready leave together, one write after another.

In: bytes for a connection.  Out: the same bytes, on the next turn of the event loop, in the order they came.

Each write wakes the client that waits for it. Spread over the encoding of a batch, that costs a wake-up per
answer; one after another, a client of many connections stays awake for all of them.
"""

import asyncio

from service.http.channel import Channel


class Outbox:
    """What is ready to leave; belongs to one event loop."""

    def __init__(self) -> None:
        self._ready: list[tuple[Channel, bytes, bool]] = []

    def put(self, channel: Channel, content: bytes, *, closes: bool) -> None:
        """Write `content` soon; `closes` closes the connection after it."""
        if not self._ready:
            asyncio.get_running_loop().call_soon(self.flush)
        self._ready.append((channel, content, closes))

    def flush(self) -> None:
        """Write everything now."""
        ready, self._ready = self._ready, []
        for channel, content, closes in ready:
            channel.send(content)
            if closes:
                channel.close()
