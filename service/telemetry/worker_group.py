"""The workers behind one port as one group: each can say whether all are ready, and what all have counted.

In: a folder of sockets, one for each worker.  Out: a reason or none; snapshots, added up.

Each worker answers on its own Unix socket with one line of JSON about itself. Nothing of a request passes
here; a worker alone has no folder and asks no other.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from service.telemetry.metrics import added

ANSWER_TIMEOUT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class WorkerSlot:
    """A worker's place in its group: its number from 0, of how many, and the folder of the sockets.

    A worker that replaces another accepts connections only once its models are tried: meanwhile they wait in
    its socket, and the other workers answer.
    """

    index: int = 0
    size: int = 1
    folder: Path | None = None
    replaces: bool = False

    def socket_of(self, index: int) -> Path:
        """The Unix socket on which worker `index` answers; only where there are several."""
        assert self.folder is not None
        return self.folder / f"{index}.sock"


class WorkerGroup:
    """What one worker knows of the whole group. Belongs to the event loop that calls `start`.

    `reason` and `snapshot` are asked for this worker's own part: why it is not ready, and its counts as
    `Metrics.snapshot` gives them.
    """

    def __init__(
        self,
        slot: WorkerSlot,
        *,
        reason: Callable[[], str | None],
        snapshot: Callable[[], dict[str, Any]],
    ) -> None:
        self.slot = slot
        self._own_reason = reason
        self._own_snapshot = snapshot
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to answer the other workers; raises OSError if the socket cannot be made."""
        if self.slot.size > 1:
            path = self.slot.socket_of(self.slot.index)
            path.unlink(missing_ok=True)  # left by the worker that this one replaces
            self._server = await asyncio.start_unix_server(self._answer, path)

    async def close(self) -> None:
        """Stop answering the other workers."""
        if self._server is not None:
            self._server.close()

    async def reason(self) -> str | None:
        """Why the group is not ready, in one sentence, or None if every worker is."""
        for index, report in enumerate(await self._reports()):
            if report is None:
                return f"worker {index} is starting"
            if report["reason"]:
                return str(report["reason"])
        return None

    async def snapshot(self) -> dict[str, Any]:
        """The counts of all workers that answer, added up (see `metrics.added`)."""
        return added([report["metrics"] for report in await self._reports() if report is not None])

    async def _reports(self) -> list[dict[str, Any] | None]:
        """What each worker reports of itself, by slot; None for one that does not answer."""
        if self.slot.size == 1:
            return [self._own_report()]
        return await asyncio.gather(*(self._ask(index) for index in range(self.slot.size)))

    async def _ask(self, index: int) -> dict[str, Any] | None:
        if index == self.slot.index:
            return self._own_report()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self.slot.socket_of(index))
                try:
                    report: dict[str, Any] = orjson.loads(await reader.read())
                finally:
                    writer.close()
                return report
        except (OSError, TimeoutError, orjson.JSONDecodeError):
            return None  # dead, being replaced, or too busy to answer: not ready, and without counts

    def _own_report(self) -> dict[str, Any]:
        return {"reason": self._own_reason(), "metrics": self._own_snapshot()}

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(orjson.dumps(self._own_report()))
        writer.close()
