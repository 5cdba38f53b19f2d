"""The order of a run: round after round, one system after another.

In: `Options`.  Out: `Step`s.

    closed loops of all systems → open loops at shares of our own maximum → overload, memory and start of ours
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.cores import Cores
from benchmarks.serving.store import CLOSED, MEMORY, OPEN, OVERLOAD, START
from benchmarks.serving.systems import BARE, ECHO, OURS

PHASES = ("closed", "open", "ours")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, how often and for how long; folders for inputs and results."""

    nets: list[str]
    systems: list[str]
    formats: list[str]
    phases: list[str]
    rounds: int
    scale: float  # factor on every net's seconds
    memory_requests: int
    cores: Cores
    models: Path
    made: Path
    peers: Path
    out: Path
    logs: Path
    calm: float  # maximum number of cores that other processes may use meanwhile


@dataclass(frozen=True)
class Step:
    """One system on one net in one round; it is started once for all these loads and formats."""

    number: int
    net: str
    system: str
    loads: tuple[str, ...]
    formats: tuple[str, ...]

    def __str__(self) -> str:
        return f"round {self.number}, {self.net}, {self.system}: {' '.join(self.loads)}"


def steps(options: Options) -> Iterator[Step]:
    """All steps, in order; phases are outermost, because open loops need our maximum over all rounds."""
    for phase in options.phases:
        for number in range(1, options.rounds + 1):
            for net in options.nets:
                yield from _of(phase, number, net, options)


def _of(phase: str, number: int, net: str, options: Options) -> Iterator[Step]:
    formats = tuple(options.formats)
    if phase == "ours":
        if OURS.name in options.systems:
            yield from _of_ours(number, net, is_first=number == 1 and net == options.nets[0])
        return
    for system in options.systems:
        if phase == "closed":
            loads = () if system == BARE else tuple(CLOSED)
            yield Step(number, net, system, loads, formats)
        elif system not in (BARE, ECHO.name):
            yield Step(number, net, system, tuple(OPEN), formats)


def _of_ours(number: int, net: str, *, is_first: bool) -> Iterator[Step]:
    yield Step(number, net, OURS.name, (OVERLOAD,), ("binary",))
    yield Step(number, net, OURS.name, (START,), ("-",))
    if is_first:
        yield Step(number, net, OURS.name, (MEMORY,), ("binary",))
