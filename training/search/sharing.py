"""Several processes on one search: who runs which trial, and which of them are dead.

In: the search's folder.  Out: a lock for what one process may do at a time, and a sign of life of this one.

    .search.lock        held for moments: while the file is opened, and while the next trial is taken
    .search.ID.lock     held by process ID for as long as it lives; the system lets go of it however it ends

A trial that runs names its process. One whose process no longer holds its lock was killed, and is marked as
failed; one of a process that lives is left alone.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.trial import TrialState

LOCK, OWNER = ".search.lock", "process"


class Shared:
    """One process among those that share the search in `folder`; see `sharing`."""

    def __init__(self, folder: Path, own: str) -> None:
        self._folder = folder
        self._own = own

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within, no other process opens the search or takes a trial."""
        with FileLock(self._folder / LOCK):
            yield

    def claim(self, trial: optuna.Trial) -> None:
        """Say that this process runs the trial; called where `alone` holds, right after it is asked for."""
        trial.set_user_attr(OWNER, self._own)

    def fail_abandoned(self, study: optuna.Study) -> None:
        """Mark the trials of killed processes as failed; called where `alone` holds."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            owner = trial.user_attrs.get(OWNER)
            if owner is None or not self._lives(owner):
                study.tell(trial.number, state=TrialState.FAIL)

    def _lives(self, owner: str) -> bool:
        if owner == self._own:
            return True
        path = _sign_of_life(self._folder, owner)
        try:
            with FileLock(path, blocking=False):
                path.unlink(missing_ok=True)
                return False
        except Timeout:
            return True


@contextmanager
def sharing(folder: Path) -> Iterator[Shared]:
    """Within, this process is one of those that share the search."""
    own = uuid.uuid4().hex[:12]
    path = _sign_of_life(folder, own)
    with FileLock(path):
        try:
            yield Shared(folder, own)
        finally:
            path.unlink(missing_ok=True)


def _sign_of_life(folder: Path, owner: str) -> Path:
    return folder / f".search.{owner}.lock"
