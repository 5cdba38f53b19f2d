"""The workers behind one port as one group: each can say whether all are ready, and what all have counted.

In: a folder of sockets, one for each worker.  Out: a reason or none; snapshots, added up.

Each worker answers on its own Unix socket, to one word, with JSON about itself. Nothing of a request passes
here; a worker alone has no folder and asks no other.

Counters never fall, because a monitoring system takes a fall for a restart: before a worker reveals its
counts it writes them into the folder. From there the others read them while it is dead, and the worker that
replaces it continues from them. What was counted but never revealed is lost with the worker that counted it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from service.contract.files import aside
from service.telemetry.metrics import added, without_gauges

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

    def counts_of(self, index: int) -> Path:
        """The file of the counts that worker `index` revealed last."""
        assert self.folder is not None
        return self.folder / f"{index}.counts"


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
        self._inherited = self._stored(slot.index) if slot.replaces else None

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
        for index, report in enumerate(await self._ask_all(b"reason")):
            if report is None:
                return f"worker {index} is starting"
            if report["reason"]:
                return str(report["reason"])
        return None

    async def snapshot(self) -> dict[str, Any]:
        """The counts of all workers, added up (see `metrics.added`); of a dead one, its last revealed."""
        reports = await self._ask_all(b"counts")
        counts = [self._stored(at) if report is None else report for at, report in enumerate(reports)]
        return added([part for part in counts if part is not None])

    async def _ask_all(self, word: bytes) -> list[dict[str, Any] | None]:
        """What each worker answers, by slot; None for one that does not."""
        if self.slot.size == 1:
            return [self._own(word)]
        return await asyncio.gather(*(self._ask(index, word) for index in range(self.slot.size)))

    async def _ask(self, index: int, word: bytes) -> dict[str, Any] | None:
        if index == self.slot.index:
            return self._own(word)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self.slot.socket_of(index))
                try:
                    writer.write(word + b"\n")
                    report: dict[str, Any] = orjson.loads(await reader.read())
                finally:
                    writer.close()
                return report
        except (OSError, TimeoutError, orjson.JSONDecodeError):
            return None  # dead, being replaced, or too busy to answer

    def _own(self, word: bytes) -> dict[str, Any]:
        if word == b"reason":
            return {"reason": self._own_reason()}
        counts = self._own_snapshot()
        if self._inherited is not None:
            counts = added([self._inherited, counts])
        if self.slot.size > 1:
            path = self.slot.counts_of(self.slot.index)
            with aside(path) as new:  # not flushed: the folder itself does not outlive the supervisor
                new.write_bytes(orjson.dumps(without_gauges(counts)))
                new.replace(path)
        return counts

    def _stored(self, index: int) -> dict[str, Any] | None:
        """What worker `index` revealed last, in this life or one before; None if it never did."""
        try:
            counts: dict[str, Any] = orjson.loads(self.slot.counts_of(index).read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return None
        return counts

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(orjson.dumps(self._own((await reader.readline()).strip())))
        writer.close()
