"""The crew: the workers behind one port, and what they tell each other.

In: a folder of sockets, one for each worker.  Out: whether all of them are ready; their counts, added up.

Each worker answers on its own Unix socket with one line of JSON about itself. Nothing of a request passes
here; a worker alone has no folder and asks nobody.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from service.models.control import Models
from service.telemetry.metrics import added

ANSWER_WITHIN_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Post:
    """A worker's place in the crew: its number, of how many, the folder of the sockets.

    One that replaces another accepts connections only once its models are tried: they wait in its socket, and
    the others answer meanwhile.
    """

    index: int = 0
    size: int = 1
    folder: Path | None = None
    replaces: bool = False

    def socket_of(self, index: int) -> Path:
        """Where worker `index` answers."""
        assert self.folder is not None
        return self.folder / f"{index}.sock"


class Crew:
    """What one worker knows of all of them."""

    def __init__(self, models: Models, post: Post) -> None:
        self._models = models
        self.post = post
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to answer the others."""
        if self.post.size > 1:
            path = self.post.socket_of(self.post.index)
            path.unlink(missing_ok=True)  # left behind by the worker that this one replaces
            self._server = await asyncio.start_unix_server(self._answer, path)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def reason(self) -> str | None:
        """Why the crew is not ready, in one sentence, or None."""
        for index, told in enumerate(await self._told()):
            if told is None:
                return f"worker {index} is starting"
            if told["reason"]:
                return str(told["reason"])
        return None

    async def snapshot(self) -> dict[str, Any]:
        """The counts of all workers that answer, added up."""
        return added([told["metrics"] for told in await self._told() if told is not None])

    async def _told(self) -> list[dict[str, Any] | None]:
        """What each worker says of itself; None for one that does not answer."""
        if self.post.size == 1:
            return [self._own()]
        return await asyncio.gather(*(self._ask(index) for index in range(self.post.size)))

    async def _ask(self, index: int) -> dict[str, Any] | None:
        if index == self.post.index:
            return self._own()
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                reader, writer = await asyncio.open_unix_connection(self.post.socket_of(index))
                try:
                    told: dict[str, Any] = orjson.loads(await reader.read())
                finally:
                    writer.close()
                return told
        except (OSError, TimeoutError, orjson.JSONDecodeError):
            return None

    def _own(self) -> dict[str, Any]:
        return {"reason": self._models.reason, "metrics": self._models.metrics.snapshot()}

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(orjson.dumps(self._own()))
        writer.close()
