"""What an exchange and the outbox need of a connection.

A class of its own because compiled classes call each other's methods without a look-up by name only through a
base class, and because the connection imports the exchanges, not the other way round.
"""

from abc import ABC, abstractmethod


class Channel(ABC):
    """One client's connection, as seen by who answers on it."""

    @abstractmethod
    def send(self, content: bytes) -> None:
        """Hand bytes to the transport now; harmless when it is closing."""

    @abstractmethod
    def write(self, content: bytes) -> None:
        """As `send`, after what waits in the outbox."""

    @abstractmethod
    def close(self) -> None:
        """Read no further request, let what is written leave, then close."""

    @abstractmethod
    def answered(self, *, keeps_alive: bool) -> None:
        """The exchange that has its turn is answered: the next may begin."""

    @abstractmethod
    def body_taken(self) -> None:
        """The exchange has room for more of its body."""

    @abstractmethod
    def take_turn(self) -> bool:
        """Continue with what did not fit into the last turn: called once for each `Turns.ask`.

        True if something was begun that will take more of the event loop's time than this call.
        """

    @abstractmethod
    def peer(self) -> str:
        """The client's address, without its port; "" if the socket has none."""

    @abstractmethod
    async def wait_until_writable(self) -> None:
        """Return when the client reads again, or is gone."""
