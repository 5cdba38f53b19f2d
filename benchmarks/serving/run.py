"""Runs steps: starts a system, runs its pending measurements, ends it.

In: `Options`, a `Store`, a `Step`.  Out: cells in the store; narration through `say`.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from benchmarks.serving import measure, ours
from benchmarks.serving.medians import maximum
from benchmarks.serving.nets import NETS, bundle_of
from benchmarks.serving.running import NotServing, RunningSystem, start_system
from benchmarks.serving.samples import read_samples
from benchmarks.serving.steps import Options, Step
from benchmarks.serving.store import CLOSED, FAILED, MEMORY, OPEN, OVERLOAD, START, Cell, Store
from benchmarks.serving.systems import BARE, OURS, SYSTEMS

OVERLOAD_FACTOR = 2.0
BARE_SECONDS = 0.5
MAX_TRIES = 3


class Run:
    """A run over a store; a system that failed to serve is not tried again in the same run."""

    def __init__(self, options: Options, store: Store, say: Callable[[str], None]) -> None:
        self._options = options
        self._store = store
        self._say = say
        self._failed: set[tuple[str, str, str]] = set()
        self._samples = cache(read_samples)
        self._logs = options.logs

    def run(self, step: Step) -> None:
        """Run the pending measurements of a step."""
        if (step.net, step.system, "") in self._failed:
            return
        try:
            if step.system == BARE:
                self._bare(step)
            elif step.loads == (START,):
                self._start(step)
            else:
                self._measure_loads(step)
        except NotServing as reason:
            place = Cell(round=step.number, net=step.net, system=step.system, format="", load=FAILED)
            self._record_failure(place, reason)

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

    def _measure_loads(self, step: Step) -> None:
        pending = self._pending(step)
        if not pending:
            return
        bundle = self._bundle(step.net)
        with start_system(
            SYSTEMS[step.system],
            bundle=bundle,
            samples=self._samples(bundle),
            peers=self._options.peers,
            cores=self._options.cores,
            logs=self._logs,
        ) as running:
            for cell in pending:
                self._measure(running, cell)

    def _pending(self, step: Step) -> list[Cell]:
        system = SYSTEMS[step.system]
        if system.unavailable_reason(self._options.peers):
            return []
        cells = [
            Cell(round=step.number, net=step.net, system=step.system, format=form, load=load)
            for form in step.formats
            if form in system.routes
            for load in step.loads
        ]
        return [cell for cell in cells if not self._store.has(cell.key) and self._is_possible(cell)]

    def _is_possible(self, cell: Cell) -> bool:
        """Whether our maximum is known and, for an open loop, the system can reach its rate."""
        if cell.load not in (*OPEN, OVERLOAD):
            return True
        rate = self._rate(cell)
        highest = maximum(self._store.cells.values(), cell.net, cell.system, cell.format)
        return rate is not None and (cell.load == OVERLOAD or (highest or 0) >= rate)

    def _rate(self, cell: Cell) -> float | None:
        share = {**OPEN, OVERLOAD: OVERLOAD_FACTOR}[cell.load]
        highest = maximum(self._store.cells.values(), cell.net, OURS.name, cell.format)
        return share * highest if highest else None

    def _measure(self, running: RunningSystem, cell: Cell) -> None:
        if (cell.net, cell.system, cell.format) in self._failed:
            return
        try:
            done = self._least_disturbed(running, cell)
        except (NotServing, RuntimeError) as reason:
            self._record_failure(cell, reason)
            return
        self._store.add(done)
        line = f"{done.net} {done.system} {done.format} {done.load}: {done.requests_per_s:,.1f}/s"
        line += f", p99 {done.p99_ms:.2f} ms, others used {done.others_cores:.2f} cores"
        if done.errors or done.wrong:
            line += f", {done.errors} errors, {done.wrong} wrong: {done.note}"
        self._say(line)

    def _least_disturbed(self, running: RunningSystem, cell: Cell) -> Cell:
        """Of up to MAX_TRIES measurements and an earlier run's, the one with the least other CPU use."""
        before = self._store.cells.get(cell.key)
        tries = [before] if before else []
        for _ in range(MAX_TRIES):
            tries.append(self._measured(running, cell))
            if tries[-1].others_cores <= self._options.calm:
                break
        return min(tries, key=lambda done: done.others_cores)

    def _measured(self, running: RunningSystem, cell: Cell) -> Cell:
        net, cores = NETS[cell.net], self._options.cores
        seconds = net.seconds_at(self._options.scale)
        if cell.load in CLOSED:
            return measure.closed(running, cell, connections=CLOSED[cell.load], seconds=seconds, cores=cores)
        if cell.load == MEMORY:
            return ours.memory(running, cell, num_requests=self._options.memory_requests, cores=cores)
        rate = self._rate(cell)
        assert rate is not None
        if cell.load == OVERLOAD:
            return ours.overload(
                running, cell, rate=rate, seconds=seconds, deadline_s=net.deadline_s, cores=cores
            )
        return measure.opened(running, cell, rate=rate, seconds=seconds, cores=cores)

    def _record_failure(self, cell: Cell, reason: Exception) -> None:
        self._failed.add((cell.net, cell.system, cell.format))
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
