"""The open loop: requests are sent when they are due, whether or not earlier ones are answered.

In: requests, the times when they are due, a number of connections.  Out: `Trace`, the fate of each.

A request that finds no free connection waits in the client; its latency counts from due to answer.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from benchmarks.serving.alarm import Alarm
from benchmarks.serving.connection import Connection

ANSWER_TIMEOUT_S = 10.0  # after the last request is due
LEAD_S = 0.05


@dataclass
class Trace:
    """Seconds on one clock; `status` 0: no answer; `waited`: no connection was free when it was due."""

    due: np.ndarray
    sent: np.ndarray
    done: np.ndarray
    status: np.ndarray
    waited: np.ndarray
    body: list[bytes] = field(repr=False)


def poisson(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Times from 0 on, in seconds, with exponential intervals; the same for the same seed."""
    count = max(1, round(rate * seconds))
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


class Driver:
    """Sends request k mod N when the k-th is due; `due` is in seconds from the start."""

    def __init__(self, requests: list[bytes], due: np.ndarray) -> None:
        size = len(due)
        self._requests = requests
        self._trace = Trace(
            due.copy(),
            np.zeros(size),
            np.zeros(size),
            np.zeros(size, int),
            np.zeros(size, bool),
            [b""] * size,
        )
        self._next = 0
        self._left = size
        self._idle: deque[Connection] = deque()
        self._waiting: deque[int] = deque()
        self._connections: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, host: str, port: int, connections: int) -> Trace:
        """Run until everything is answered, or ANSWER_TIMEOUT_S has passed."""
        self._address = host, port
        self._finished = asyncio.Event()
        await asyncio.gather(*(self._connect() for _ in range(connections)))
        trace = self._trace
        trace.due += time.monotonic() + LEAD_S
        self._alarm = Alarm(asyncio.get_running_loop(), self._send_due)
        self._alarm.at(float(trace.due[0]))
        try:
            await asyncio.wait_for(self._finished.wait(), trace.due[-1] - time.monotonic() + ANSWER_TIMEOUT_S)
        except TimeoutError:
            pass
        finally:
            self._alarm.close()
            for task in self._tasks:
                task.cancel()
            for connection in self._connections:
                connection.close()
        return trace

    def _send_due(self) -> None:
        now, due = time.monotonic(), self._trace.due
        while self._next < len(due) and due[self._next] <= now:
            if (connection := self._free()) is not None:
                self._send(connection, self._next)
            else:
                self._trace.waited[self._next] = True
                self._waiting.append(self._next)
            self._next += 1
        if self._next < len(due):
            self._alarm.at(float(due[self._next]))

    def _free(self) -> Connection | None:
        while self._idle:
            connection = self._idle.popleft()
            if connection.is_open:
                return connection
            self._reconnect()
        return None

    def _send(self, connection: Connection, index: int) -> None:
        connection.tag = index
        self._trace.sent[index] = time.monotonic()
        connection.send(self._requests[index % len(self._requests)])

    def _answered(self, connection: Connection, status: int, body: bytes) -> None:
        index, trace = connection.tag, self._trace
        trace.done[index], trace.status[index], trace.body[index] = time.monotonic(), status, body
        self._left -= 1
        if self._left == 0:
            self._finished.set()
        elif connection.is_open:
            self._use(connection)
        else:
            self._reconnect()

    def _use(self, connection: Connection) -> None:
        """Use a free connection for the next waiting request, or keep it idle."""
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _reconnect(self) -> None:
        task = asyncio.get_running_loop().create_task(self._connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self._answered), *self._address)
        self._connections.append(connection)
        self._use(connection)
