"""Processes that decode pictures, killed as soon as one takes too long or its client is gone.

In: the files of a request.  Out: their pixels, or which of them cannot be decoded and why.

A process starts when it is first needed, which takes about 0.2 s, serves one request after another, and ends
when it has been idle for a while. Why no library does this: docs/decisions/0028-hostile-work-elsewhere.md.
"""

import asyncio
import logging
import math
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import numpy as np

from service.contract.pictures import PictureError, Target, UnknownFormatError
from service.errors import Unavailable
from service.pictures.child import ANSWER, LENGTH, PIXELS, READY, REQUEST, UNKNOWN

START_TIMEOUT_S = 30.0
IDLE_S = 60.0
END_TIMEOUT_S = 1.0  # a killed process may still be in the kernel
NICENESS = 10  # answers from models go first

_COMMAND = (sys.executable, "-m", "service.pictures.child")
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG")  # nothing else of the environment: it may hold secrets
_MAX_REASON_BYTES = 10_000
_log = logging.getLogger("foldserve")


class FileError(Exception):
    """Why the files of a request are not decoded; `index` of the one that it is about, where it is known."""

    def __init__(self, index: int | None, reason: PictureError) -> None:
        super().__init__(str(reason))
        self.index = index
        self.reason = reason


class DecodingProcess:
    """One of them; decodes for one request at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._requests = process.stdin
        self._answers = process.stdout
        self.is_usable = False  # started, and has answered whatever it was asked
        self.idle_since_s = 0.0

    @classmethod
    async def start(cls) -> "DecodingProcess":
        """A new one, once it can decode; raises Unavailable."""
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        environment["OPENBLAS_NUM_THREADS"] = "1"  # each thread of it would take address space
        environment["MALLOC_MMAP_THRESHOLD_"] = str(4 << 20)  # a decoded picture's memory goes back at once
        started = await asyncio.create_subprocess_exec(
            *_COMMAND,
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
                await process._receive(READY)
        except (FileError, TimeoutError) as error:
            _log.error("event=decoder_failed reason=%r", str(error) or f"no sign within {START_TIMEOUT_S} s")
            raise Unavailable("no process that decodes pictures could be started") from None
        finally:
            if not process.is_usable:
                process.kill()
        return process

    async def decode(
        self, contents: Sequence[bytes | bytearray], target: Target, num_bytes: int
    ) -> np.ndarray:
        """Pixels (N, C, H, W) uint8 of N files, within `num_bytes` of memory; raises FileError."""
        self.is_usable = False
        described = target.to_json()
        with suppress(ConnectionError):  # it has ended: the answer, or its absence, says why
            self._requests.write(REQUEST.pack(len(described), num_bytes, len(contents)) + described)
            self._requests.write(b"".join(LENGTH.pack(len(content)) for content in contents))
            for content in contents:
                self._requests.write(content)
                await self._requests.drain()
        shape = (len(contents), *target.shape)
        return np.frombuffer(await self._receive(PIXELS, math.prod(shape)), np.uint8).reshape(shape)

    def kill(self) -> None:
        """End it now, whatever it does; harmless if it has ended."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> None:
        """Return when it has ended."""
        await self._process.wait()

    async def _receive(self, expected: bytes, num_bytes: int = 0) -> bytes:
        """The next answer's content, of `num_bytes` if it is the expected one; FileError if it is not."""
        try:
            kind, length, index = ANSWER.unpack(await self._answers.readexactly(ANSWER.size))
            if length != num_bytes if kind == expected else length > _MAX_REASON_BYTES:
                raise ConnectionError  # no child of ours says such a thing
            content = await self._answers.readexactly(length)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.kill()
            code = await self._process.wait()
            reason = f"cannot be decoded: the decoder ended with exit code {code}"
            raise FileError(None, PictureError(reason)) from None
        self.is_usable = True
        if kind == expected:
            return content
        reason = content.decode(errors="replace")
        raise FileError(index, UnknownFormatError(reason) if kind == UNKNOWN else PictureError(reason))


class DecodingProcesses:
    """As many as are borrowed at once; how many that may be is what `Capacity` decides."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._idle: list[DecodingProcess] = []  # the longest idle first
        self._borrowed: set[DecodingProcess] = set()
        self._sweep: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[DecodingProcess]:
        """One for a request, killed if it still decodes when the block ends; TimeoutError at the deadline."""
        process = self._idle.pop() if self._idle else await DecodingProcess.start()
        self._borrowed.add(process)
        try:
            async with asyncio.timeout(self.timeout_s):
                yield process
        finally:
            self._borrowed.discard(process)
            if process.is_usable:
                self._keep(process)
            else:
                process.kill()

    async def close(self) -> None:
        """End all of them, borrowed or not, and see them off."""
        if self._sweep is not None:
            self._sweep.cancel()
        processes = [*self._idle, *self._borrowed]
        for process in processes:
            process.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                await asyncio.gather(*(process.wait() for process in processes))

    def _keep(self, process: DecodingProcess) -> None:
        loop = asyncio.get_running_loop()
        process.idle_since_s = loop.time()
        self._idle.append(process)
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_S, self._end_idle)

    def _end_idle(self) -> None:
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].idle_since_s + IDLE_S <= loop.time() + 1:
            self._idle.pop(0).kill()
        self._sweep = loop.call_later(IDLE_S, self._end_idle) if self._idle else None
