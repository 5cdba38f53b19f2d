"""Load from clients that keep their connections, on several servers at once; every answer is compared.

In: the addresses that clients may connect to (the list may change meanwhile), a model that answers its input.
Out: `Answers`: how many were right, and each failure in words.

Without a balancer a client chooses a server when it connects, as kube-proxy does for it, and stays until the
connection ends; after a failure it connects to another one, if it knows one. Unless it has `retries` it never
asks twice: each request that gets no right answer is a failure.
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from service_kit import binary_body

Address = tuple[str, int]
RETRY_S = 0.1  # until a failed request is sent again


@dataclass
class Answers:
    """What clients got; `longest_gap_s` is the longest time without a right answer."""

    right: int = 0
    failures: list[str] = field(default_factory=list)
    refused: int = 0  # by 503 with Retry-After, which the client then waited for
    closing: int = 0  # answers that said `connection: close`
    longest_gap_s: float = 0.0
    last_s: float | None = None


def request_of(value: int, model: str) -> tuple[bytes, bytes]:
    """A request for three numbers that no other request has, and the bytes that must come back."""
    row = np.array([[value, value + 0.5, -value]], "<f4").tobytes()
    document = {
        "inputs": [
            {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": len(row)}}
        ],
        "parameters": {"binary_data_output": True},
    }
    body, headers = binary_body(document, row)
    lines = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\n{lines}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body, row


class WrongAnswerError(AssertionError):
    """An answer with other bytes than those that must come back; no second answer makes up for it."""


class Client:
    """One client with at most one connection."""

    def __init__(
        self,
        addresses: list[Address],
        answers: Answers,
        model: str,
        timeout_s: float,
        *,
        is_patient: bool,
        retries: int,
    ) -> None:
        self._addresses = addresses
        self._answers = answers
        self._model = model
        self._timeout_s = timeout_s
        self._is_patient = is_patient
        self._retries = retries
        self._failed: Address | None = None  # the last address that failed
        self._address = addresses[0]
        self._wait_s = 0.0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, value: int) -> None:
        """One request, counted as right or as a failure."""
        answers = self._answers
        for left in range(self._retries, -1, -1):
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._ask(value)
                break
            except (OSError, EOFError, TimeoutError, AssertionError) as error:
                self.close()
                self._failed = self._address
                await asyncio.sleep(RETRY_S if left else 0.01)
                if left == 0 or isinstance(error, WrongAnswerError):
                    answers.failures.append(f"{type(error).__name__}: {error}"[:200])
                    return
        if self._wait_s:
            answers.refused += 1
            await asyncio.sleep(self._wait_s)
            return
        now = asyncio.get_running_loop().time()
        if answers.last_s is not None:
            answers.longest_gap_s = max(answers.longest_gap_s, now - answers.last_s)
        answers.right, answers.last_s = answers.right + 1, now

    async def _ask(self, value: int) -> None:
        request, row = request_of(value, self._model)
        if self._streams is None:
            others = [address for address in self._addresses if address != self._failed]
            self._address = random.choice(others or self._addresses)
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, has_length, rest = head.partition(b"\r\ncontent-length: ")
        assert has_length, head[:100]
        body = await reader.readexactly(int(rest.split(b"\r\n")[0]))
        self._wait_s = 0.0
        if self._is_patient and head.startswith(b"http/1.1 503"):
            self._wait_s = float(head.split(b"\r\nretry-after: ")[1].split(b"\r\n")[0])
            return
        assert head.startswith(b"http/1.1 200"), (head[:12], body[:100])
        if not body.endswith(row):
            raise WrongAnswerError(body[-100:])
        if b"\r\nconnection: close" in head:
            self._answers.closing += 1
            self.close()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


@contextlib.contextmanager
def load(
    addresses: list[Address],
    *,
    connections: int = 8,
    pause_s: float = 0.0,
    timeout_s: float = 20.0,
    model: str = "echo",
    is_patient: bool = False,
    retries: int = 0,
) -> Iterator[Answers]:
    """Clients that ask, in a thread, until the block ends; they pause for `pause_s` in the mean.

    To patient ones a 503 is no failure: they wait as long as it says. A request is a failure when the last of
    its `retries` fails, or any of its answers is wrong.
    """
    answers = Answers()
    stops = threading.Event()

    async def one(first: int) -> None:
        client = Client(addresses, answers, model, timeout_s, is_patient=is_patient, retries=retries)
        value = first
        while not stops.is_set():
            await client.ask(value % 2**20)
            value += connections
            if pause_s:
                await asyncio.sleep(random.uniform(0, 2 * pause_s))
        client.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(one(index) for index in range(connections)))

    thread = threading.Thread(target=lambda: asyncio.run(all_of_them()), name="load")
    thread.start()
    try:
        yield answers
    finally:
        stops.set()
        thread.join()
