"""What an exchange and the outbox need of a connection.

A class of its own because compiled classes call each other's methods without a look-up by name only through a
base class, and because the connection imports the exchanges, not the other way round.
"""


class Channel:
    """One client's connection, as seen by who answers on it."""

    def send(self, content: bytes) -> None:
        """Hand bytes to the transport now; harmless when it is closing."""
        raise NotImplementedError

    def write(self, content: bytes) -> None:
        """As `send`, after what waits in the outbox."""
        raise NotImplementedError

    def close(self) -> None:
        """Read no further request, let what is written leave, then close."""
        raise NotImplementedError

    def answered(self, *, keeps_alive: bool) -> None:
        """The exchange that has its turn is answered: the next may begin."""
        raise NotImplementedError

    def body_taken(self) -> None:
        """The exchange has room for more of its body."""
        raise NotImplementedError

    def peer(self) -> str:
        """The client's address, without its port; "" if the socket has none."""
        raise NotImplementedError

    async def wait_until_writable(self) -> None:
        """Return when the client reads again, or is gone."""
        raise NotImplementedError
