"""Tests run in several processes at once; those marked `alone` have the machine to themselves.

In: the id of a parallel run.  Out: a lock to hold for one test, whichever process runs it.

    other tests   take the room together
    alone         waits until the room is empty, and keeps the door shut until it ends

The door lets tests in one by one, so that new ones do not keep out for ever one that waits for an empty room.
"""

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    with path.open("a") as file:  # closing it unlocks
        fcntl.flock(file, how)
        yield


@contextlib.contextmanager
def turn(run_id: str, *, alone: bool) -> Iterator[None]:
    """Hold this while a test runs, its fixtures included."""
    folder = Path(tempfile.gettempdir())
    door, room = folder / f"foldserve-{run_id}.door", folder / f"foldserve-{run_id}.room"
    with contextlib.ExitStack() as held:
        with _locked(door, fcntl.LOCK_EX):
            held.enter_context(_locked(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        yield
