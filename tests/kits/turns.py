"""Tests run in several processes at once; those marked `alone` have the machine to themselves.

In: the id of a parallel run (pytest -n).  Out: a lock that is held for one test, whichever process runs it.

    other tests   take the room together
    alone         waits until the room is empty, and keeps the door shut until it ends

The door lets tests in one by one, so that new ones do not keep out for ever one that waits for an empty room.
"""

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    with path.open("a") as file:  # closing it unlocks
        fcntl.flock(file, how)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """The lock is held for a test with its fixtures; a run in one process needs none."""
    worker = getattr(item.config, "workerinput", None)
    if worker is None:
        return (yield)
    with turn(worker["testrunuid"], alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextlib.contextmanager
def turn(run_id: str, *, alone: bool) -> Iterator[None]:
    folder = Path(tempfile.gettempdir())
    door, room = folder / f"foldserve-{run_id}.door", folder / f"foldserve-{run_id}.room"
    with contextlib.ExitStack() as held:
        with _locked(door, fcntl.LOCK_EX):
            held.enter_context(_locked(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        yield
