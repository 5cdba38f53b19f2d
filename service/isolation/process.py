"""A process that does work on hostile bytes, killed as soon as it takes too long or its client is gone.

In: parts of a request.  Out: the answer of its child (child.py), or `Ended` where there is none.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from service.errors import Unavailable
from service.isolation.child import ANSWER, LENGTH, REQUEST, Answer

START_TIMEOUT_S = 30.0
NICENESS = 10  # answers from models go first
SLICE = 256 * 1024  # written at once: what does not fit the pipe is copied

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG")  # nothing else of the environment: it may hold secrets
_log = logging.getLogger("foldserve")


class Ended(Exception):  # noqa: N818
    """The process has ended without an answer, or with one that no child of ours gives."""


class IsolatedProcess:
    """One of them; works for one request at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._requests = process.stdin
        self._answers = process.stdout
        self.is_usable = False  # started, and has answered all that it was asked
        self.idle_since_s = 0.0

    @classmethod
    async def start(cls, module: str) -> "IsolatedProcess":
        """A new one that runs `python -m module`, once it can work; raises Unavailable."""
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        environment["OPENBLAS_NUM_THREADS"] = "1"  # each thread of it would take address space
        environment["MALLOC_MMAP_THRESHOLD_"] = str(4 << 20)  # what a request took goes back at once
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the server, which ends its processes itself
        )
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, started.pid, NICENESS)
        process = cls(started)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await process._receive(0)
        except (Ended, TimeoutError) as error:
            why = str(error) or f"no sign within {START_TIMEOUT_S} s"
            _log.error("event=isolated_process_failed module=%s reason=%r", module, why)
            raise Unavailable("no process for large or unusual requests could be started") from None
        finally:
            if not process.is_usable:
                process.kill()
        return process

    async def ask(
        self, parts: Sequence[bytes | bytearray | memoryview], num_bytes: int, max_answer_bytes: int
    ) -> Answer:
        """Its answer about these parts, within `num_bytes` of memory beside the parts; raises Ended."""
        self.is_usable = False
        lengths = [len(part) for part in parts]
        with suppress(ConnectionError):  # it has ended: the answer, or its absence, says why
            self._requests.write(REQUEST.pack(num_bytes + sum(lengths), len(parts)))
            self._requests.write(b"".join(map(LENGTH.pack, lengths)))
            for part in parts:
                for start in range(0, len(part), SLICE):
                    self._requests.write(memoryview(part)[start : start + SLICE])
                    await self._requests.drain()
        return await self._receive(max_answer_bytes)

    def kill(self) -> None:
        """End it now, whatever it does; harmless if it has ended."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> None:
        """Return when it has ended."""
        await self._process.wait()

    async def _receive(self, max_bytes: int) -> Answer:
        try:
            kind, length, number = ANSWER.unpack(await self._answers.readexactly(ANSWER.size))
            if length > max_bytes:
                raise ConnectionError  # no child of ours says such a thing
            content = await self._answers.readexactly(length)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.kill()
            raise Ended(f"exit code {await self._process.wait()}") from None
        self.is_usable = True
        return kind, content, number
