"""What can stop a run, each error in one sentence.

TrainingError            exit code 2: the user can correct it before anything long starts
├── ConfigError          a setting is out of range, or is not what the run started with
├── DataError            a data set is missing, damaged, or of the wrong shape
├── NetError             no such net, or settings that it cannot take
├── DeviceError          asked for and absent
├── OutputError          a folder that cannot be written, or that holds another run
├── CheckpointError      missing, torn, foreign, or of another version
├── GroupError           another process cannot be reached, or was started differently; LostError: exit code 1
└── DivergedError        exit code 1: a loss, a weight or a statistic is NaN or infinite
"""

from collections.abc import Iterable
from difflib import get_close_matches


class TrainingError(Exception):
    """The message is one sentence: what was found, what was expected, where."""

    exit_code = 2


class DataError(TrainingError):
    """A data set that is missing, damaged, or not of the shape that it should have."""


def describe_unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence for an unknown name: all the known ones, and the one that is spelled most like it."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown {kind} {name!r}, known: {', '.join(names)}{hint}"
