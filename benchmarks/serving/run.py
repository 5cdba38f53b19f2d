"""Takes steps: starts a system, measures what is pending of it, ends it.

In: `Options`, a `Store`, a `Step`.  Out: cells in the store; narration through `say`.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from benchmarks.serving import measure, ours
from benchmarks.serving.medians import maximum
from benchmarks.serving.nets import NETS, bundle_of
from benchmarks.serving.samples import read_samples
from benchmarks.serving.stage import NotServing, Stage, on_stage
from benchmarks.serving.steps import Options, Step
from benchmarks.serving.store import CLOSED, FAILED, MEMORY, OPEN, OVERLOAD, START, Cell, Store
from benchmarks.serving.systems import BARE, OURS, SYSTEMS

OVERLOAD_FACTOR = 2.0
BARE_SECONDS = 0.5
MAX_TRIES = 3


class Run:
    """Knows what is pending; a system that did not serve is not tried again in this run."""

    def __init__(self, options: Options, store: Store, say: Callable[[str], None]) -> None:
        self._options = options
        self._store = store
        self._say = say
        self._lost: set[tuple[str, str, str]] = set()
        self._samples = cache(read_samples)
        self._logs = options.logs

    def take(self, step: Step) -> None:
        """Measure what this step still lacks."""
        if (step.net, step.system, "") in self._lost:
            return
        try:
            if step.system == BARE:
                self._bare(step)
            elif step.loads == (START,):
                self._start(step)
            else:
                self._visit(step)
        except NotServing as reason:
            place = Cell(round=step.number, net=step.net, system=step.system, format="", load=FAILED)
            self._lose(place, reason)

    def _bare(self, step: Step) -> None:
        place = (step.number, step.net, BARE)
        if any(key[:3] == place and self._store.has(key) for key in self._store.cells):
            return
        seconds, bundle = BARE_SECONDS * self._options.scale, self._bundle(step.net)
        for cell in measure.bare(bundle, step.number, step.net, seconds, self._options.cores):
            self._store.add(cell)

    def _start(self, step: Step) -> None:
        cell = Cell(round=step.number, net=step.net, system=OURS.name, format="-", load=START)
        if not self._store.has(cell.key):
            self._store.add(ours.start(cell, self._bundle(step.net), self._options.cores, self._logs))

    def _visit(self, step: Step) -> None:
        pending = self._pending(step)
        if not pending:
            return
        bundle = self._bundle(step.net)
        with on_stage(
            SYSTEMS[step.system],
            bundle=bundle,
            samples=self._samples(bundle),
            peers=self._options.peers,
            cores=self._options.cores,
            logs=self._logs,
        ) as stage:
            for cell in pending:
                self._measure(stage, cell)

    def _pending(self, step: Step) -> list[Cell]:
        system = SYSTEMS[step.system]
        if system.why_not(self._options.peers):
            return []
        cells = [
            Cell(round=step.number, net=step.net, system=step.system, format=form, load=load)
            for form in step.formats
            if form in system.routes
            for load in step.loads
        ]
        return [cell for cell in cells if not self._store.has(cell.key) and self._can_be_asked(cell)]

    def _can_be_asked(self, cell: Cell) -> bool:
        """An open loop needs our maximum, and a system that could follow."""
        if cell.load not in (*OPEN, OVERLOAD):
            return True
        rate = self._rate(cell)
        most = maximum(self._store.cells.values(), cell.net, cell.system, cell.format)
        return rate is not None and (cell.load == OVERLOAD or (most or 0) >= rate)

    def _rate(self, cell: Cell) -> float | None:
        share = {**OPEN, OVERLOAD: OVERLOAD_FACTOR}[cell.load]
        most = maximum(self._store.cells.values(), cell.net, OURS.name, cell.format)
        return share * most if most else None

    def _measure(self, stage: Stage, cell: Cell) -> None:
        if (cell.net, cell.system, cell.format) in self._lost:
            return
        try:
            done = self._in_peace(stage, cell)
        except (NotServing, RuntimeError) as reason:
            self._lose(cell, reason)
            return
        self._store.add(done)
        told = f"{done.net} {done.system} {done.format} {done.load}: {done.requests_per_s:,.1f}/s"
        told += f", p99 {done.p99_ms:.2f} ms, others used {done.others_cores:.2f} cores"
        if done.errors or done.wrong:
            told += f", {done.errors} errors, {done.wrong} wrong: {done.note}"
        self._say(told)

    def _in_peace(self, stage: Stage, cell: Cell) -> Cell:
        """The measurement that others disturbed least, an earlier run's too."""
        before = self._store.cells.get(cell.key)
        tries = [before] if before else []
        for _ in range(MAX_TRIES):
            tries.append(self._measured(stage, cell))
            if tries[-1].others_cores <= self._options.calm:
                break
        return min(tries, key=lambda done: done.others_cores)

    def _measured(self, stage: Stage, cell: Cell) -> Cell:
        net, cores = NETS[cell.net], self._options.cores
        seconds = net.seconds_at(self._options.scale)
        if cell.load in CLOSED:
            return measure.closed(stage, cell, connections=CLOSED[cell.load], seconds=seconds, cores=cores)
        if cell.load == MEMORY:
            return ours.memory(stage, cell, num_requests=self._options.memory_requests, cores=cores)
        rate = self._rate(cell)
        assert rate is not None
        if cell.load == OVERLOAD:
            return ours.overload(
                stage, cell, rate=rate, seconds=seconds, deadline_s=net.deadline_s, cores=cores
            )
        return measure.opened(stage, cell, rate=rate, seconds=seconds, cores=cores)

    def _lose(self, cell: Cell, reason: Exception) -> None:
        self._lost.add((cell.net, cell.system, cell.format))
        failed = Cell(
            round=cell.round,
            net=cell.net,
            system=cell.system,
            format=cell.format,
            load=FAILED,
            note=str(reason),
        )
        self._store.add(failed)
        self._say(f"{cell.net} {cell.system} {cell.format}: {reason}")

    def _bundle(self, net: str) -> Path:
        return bundle_of(NETS[net], self._options.models, self._options.made)
