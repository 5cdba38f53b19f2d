"""Run a function in a separate process, so that only that process fails if it crashes, hangs or eats memory.

In: a function and its arguments.  Out: its result; raises ProcessFailed with the reason.

Forked, so that nothing has to be imported or pickled on the way in. Linux only.
"""

import ctypes
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from service.contract.text import first_line

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1


class ProcessFailed(Exception):  # noqa: N818
    """The function did not return a result."""


def isolated(limit_s: float, function: Callable[..., T], *arguments: Any) -> T:
    """Call the function in a forked process, silenced, and kill it after `limit_s` seconds."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_call, args=(sender, os.getpid(), function, arguments))
    child.start()
    sender.close()
    try:
        if not receiver.poll(limit_s):
            raise ProcessFailed(f"no answer after {limit_s:g} s")
        is_ok, value = receiver.recv()
    except EOFError:
        child.join()
        code = child.exitcode or 0
        died = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise ProcessFailed(f"its process ended with {died}") from None
    finally:
        child.kill()
        child.join()
        receiver.close()
    if not is_ok:
        raise ProcessFailed(value)
    return value


def _call(sender: Connection, parent: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # Ends with its parent: a net's process may be killed while one of its tools hangs.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    warnings.simplefilter("ignore")  # those of a tool; if warnings were errors, the tool would seem broken
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        answer = True, function(*arguments)
    except ModuleNotFoundError as error:
        answer = False, f"not installed: {error.name}"
    except BaseException as error:  # tools may raise anything, even SystemExit
        answer = False, f"{type(error).__name__}: {first_line(error)}"
    sender.send(answer)
    sender.close()
    # No exit handlers: the parent's files and thread pools are not this process's to close.
    os._exit(0)
