"""A process that does work on hostile bytes, killed as soon as it takes too long or its client is gone.

In: parts of a request.  Out: the answer of its child (child.py), or `Ended` where there is none.

What is sent and received goes through blocking pipes, in a thread that waits in the kernel: 60 MB in the
pieces that an event loop writes take a thousand turns of it, and three copies.
"""

import asyncio
import fcntl
import logging
import os
import subprocess
import sys
from concurrent.futures import Executor
from contextlib import suppress

from service.contract.bytes_like import Buffer
from service.errors import Unavailable
from service.isolation.child import ANSWER, LENGTH, REQUEST, Answer

START_TIMEOUT_S = 30.0
NICENESS = 10  # answers from models go first
PIPE_BYTES = 1 << 20  # the most that a user may have; by default 64 KiB, and a change of process for each

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG")  # nothing else of the environment: it may hold secrets
_log = logging.getLogger("foldserve")


class Ended(Exception):  # noqa: N818
    """The process has ended without an answer, or with one that no child of ours gives."""


class IsolatedProcess:
    """One of them; works for one request at a time."""

    def __init__(self, module: str, threads: Executor) -> None:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        environment["OPENBLAS_NUM_THREADS"] = "1"  # each thread of it would take address space
        environment["MALLOC_MMAP_THRESHOLD_"] = str(4 << 20)  # what a request took goes back at once
        # By vfork, which copies no page tables: asyncio's way takes 40 ms of the loop in a large service.
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the server, which ends its processes itself
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin
        self._answers = self._process.stdout
        self._threads = threads
        self.is_usable = False  # started, and has answered all that it was asked
        self.idle_since_s = 0.0
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
        for pipe in (self._requests, self._answers):
            with suppress(OSError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    @classmethod
    async def start(cls, module: str, threads: Executor) -> "IsolatedProcess":
        """A new one that runs `python -m module`, once it can work; raises Unavailable.

        `threads` send and receive for it: each request takes one of them for as long as it takes.
        """
        process = cls(module, threads)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await process._in_thread([], 0)
        except (Ended, TimeoutError) as error:
            why = str(error) or f"no sign within {START_TIMEOUT_S} s"
            _log.error("event=isolated_process_failed module=%s reason=%r", module, why)
            raise Unavailable("no process for large or unusual requests could be started") from None
        finally:
            if not process.is_usable:
                process.kill()
                threads.submit(process._see_off)
        return process

    async def ask(self, parts: list[Buffer], num_bytes: int, max_answer_bytes: int) -> Answer:
        """Its answer about these parts, within `num_bytes` of memory beside the parts; raises Ended.

        Each part is taken from the list once it is sent: then the process holds it, and that is enough.
        """
        lengths = [len(part) for part in parts]
        head = REQUEST.pack(num_bytes + sum(lengths), len(parts)) + b"".join(map(LENGTH.pack, lengths))
        parts.insert(0, head)
        return await self._in_thread(parts, max_answer_bytes)

    def kill(self) -> None:
        """End it now, whatever it does; harmless if it has ended."""
        self._process.kill()

    async def wait(self) -> None:
        """Return when it has ended."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._see_off)

    async def _in_thread(self, parts: list[Buffer], max_answer_bytes: int) -> Answer:
        self.is_usable = False
        loop = asyncio.get_running_loop()
        # Cancelled, the thread waits on until the process is killed, which ends both pipes.
        answer = await loop.run_in_executor(self._threads, self._exchange, parts, max_answer_bytes)
        self.is_usable = True
        return answer

    def _exchange(self, parts: list[Buffer], max_answer_bytes: int) -> Answer:
        with suppress(OSError):  # it has ended: the answer, or its absence, says why
            while parts:
                self._requests.write(parts.pop(0))
            self._requests.flush()
        head = self._answers.read(ANSWER.size)
        if len(head) == ANSWER.size:
            kind, length, number = ANSWER.unpack(head)
            if length <= max_answer_bytes:  # no child of ours says more
                content = self._answers.read(length)
                if len(content) == length:
                    return kind, content, number
        self.kill()
        raise Ended(f"exit code {self._process.wait()}")

    def _see_off(self) -> None:
        self._process.wait()
        with suppress(OSError):  # what was not sent
            self._requests.close()
        self._answers.close()
