"""How this process was started: alone, or by torchrun as one of several.

In: the environment variables that torchrun sets.  Out: a `Launch`; none of them means a process alone.

    RANK, WORLD_SIZE              this process's number, from 0 on, and how many there are
    LOCAL_RANK                    its number on this machine, and so its GPU
    TORCHELASTIC_MAX_RESTARTS     how often all are restarted when one has died

Only the first process prints: a mistake that all of them make would otherwise be printed by each. Any other
rank waits PATIENCE_SECONDS before it prints an error: if the first has failed as well, torchrun ends this one
meanwhile; if it is still alive then, it has failed alone, and its error is worth reading.
"""

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from training.errors import TrainingError

PATIENCE_SECONDS = 10


class GroupError(TrainingError):
    """A process of the run that cannot be reached, or that was started with other flags than the first."""


class LostError(GroupError):
    """Another process ended while this one was training."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Process `rank` of `size`, on its machine process `local_rank`."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    by_torchrun: bool = False
    max_restarts: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process prints and writes files; the others do neither."""
        return self.rank == 0

    def report(self, error: TrainingError) -> None:
        """Print on stderr why this process ends; any but the first waits first, see above."""
        if not self.is_first or isinstance(error, LostError):
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(PATIENCE_SECONDS)
        who = "training" if self.is_first else f"training, process {self.rank}"
        print(f"{who}: {error}", file=sys.stderr)


def end(code: int) -> NoReturn:
    """End this process with exit code `code`.

    One of several processes ends at once after an error, without Python's clean-up: that would take down
    pending messages of the process group in any order, and sometimes end in SIGABRT instead of the code.
    """
    if code and "RANK" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def read_launch(environment: Mapping[str, str]) -> Launch:
    """Read the variables; raises GroupError if one is missing or not a number."""
    if "RANK" not in environment:
        return Launch()
    rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    if rank >= size:
        raise GroupError(f"RANK must be below WORLD_SIZE, got {rank} and {size}")
    return Launch(
        rank=rank,
        size=size,
        local_rank=_number(environment, "LOCAL_RANK"),
        by_torchrun=True,
        max_restarts=_number(environment, "TORCHELASTIC_MAX_RESTARTS", "0"),
    )


def _number(environment: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environment.get(name, default)
    if text is None or not text.isdecimal():
        raise GroupError(f"RANK is set, as torchrun does, so {name} must be a number, got {text!r}")
    return int(text)
