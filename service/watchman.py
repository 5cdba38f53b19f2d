"""Waiting for a job on behalf of a client who may hang up.

In: a job in a queue, and the client's connection.  Out: the answers, or HungUp, or Draining.

Most jobs are answered in milliseconds, so a connection is looked at only once its job has waited through a
whole round of ROUND_S, and one timer serves every job: watching costs a request next to nothing.
"""

import asyncio
from dataclasses import dataclass

from service.batcher import Batcher
from service.errors import Draining, HungUp
from service.job import Job, Tensors
from service.reply import Receive

ROUND_S = 0.02


@dataclass(slots=True, eq=False)
class _Watch:
    """A job, where it waits, and the connection of its client."""

    job: Job
    batcher: Batcher
    receive: Receive
    task: "asyncio.Task[None] | None" = None
    has_hung_up: bool = False

    async def look(self) -> None:
        """Wait for the client to hang up, and take the job back."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.has_hung_up = True
        self.batcher.cancel(self.job)


class Watchman:
    """Watches the connections of every job that waits. Belongs to one event loop."""

    def __init__(self) -> None:
        self._new: set[_Watch] = set()
        self._seen: set[_Watch] = set()
        self._is_walking = False

    async def wait_for_answers(self, batcher: Batcher, job: Job, receive: Receive) -> Tensors:
        """The job's answers; if its client hangs up, what still waits of it never runs."""
        watch = _Watch(job, batcher, receive)
        self._new.add(watch)
        if not self._is_walking:
            self._is_walking = True
            asyncio.get_running_loop().call_later(ROUND_S, self._walk)
        try:
            return await job.future
        except asyncio.CancelledError:
            batcher.cancel(job)
            if watch.has_hung_up:
                raise HungUp("the client hung up before its answer was ready") from None
            raise Draining("the server shut down before the answer was ready") from None
        finally:
            self._new.discard(watch)
            self._seen.discard(watch)
            if watch.task is not None:
                watch.task.cancel()

    def _walk(self) -> None:
        loop = asyncio.get_running_loop()
        for watch in self._seen:
            watch.task = loop.create_task(watch.look())
        self._seen, self._new = self._new, set()
        if self._seen:
            loop.call_later(ROUND_S, self._walk)
        else:
            self._is_walking = False
