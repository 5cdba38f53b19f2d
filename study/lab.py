"""Where cells are measured, once: each result is a file, so an interrupted study resumes.

In: cells, which are frozen dataclasses that know how to `measure` themselves.  Out: their results, as JSON.

A file is named by a digest of the cell's settings, of the data's rows and of torch's version, is written
aside and renamed, and holds all of these: what was measured under anything else is not taken for it. Every
cell computes with one thread, here or in one of several processes, so that its numbers are the same however
many run side by side.
"""

import hashlib
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from training.errors import TrainingError
from training.files import publish
from training.loop.device import initialize_mkl

VERSION = 1  # of what a cell's result means: with another one, everything is measured again


class StudyError(TrainingError):
    """Something that a study cannot do, or cannot continue after."""


class NotMeasuredError(StudyError):
    """A cell that has not been measured yet, where none may be measured now."""


class Cell(Protocol):
    """A frozen dataclass of settings."""

    def measure(self) -> dict[str, Any]:
        """What comes of them; takes long."""


Result = dict[str, Any]
Measure = Callable[[Sequence[Cell]], list[Result]]


class Lab:
    """Results in `folder`, measured with `jobs` processes; `on_cell(done, planned)` is called after each.

    A context: its processes start with the first cells that are missing, and end with it.
    """

    def __init__(
        self,
        folder: Path,
        context: Mapping[str, Any],
        *,
        jobs: int = 1,
        on_cell: Callable[[int, int], None] = lambda done, planned: None,
    ) -> None:
        self.folder, self.jobs, self.on_cell = folder, jobs, on_cell
        self.context = {"version": VERSION, "torch": torch.__version__, **context}
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def measure(self, cells: Sequence[Cell]) -> list[Result]:
        """Results in the order of `cells`; only what is missing is measured."""
        missing = {self._key(cell): cell for cell in cells if self._read(cell) is None}
        self.on_cell(0, len(missing))
        for done, (cell, result) in enumerate(self._run(list(missing.values())), start=1):
            record = {"cell": self._describe(cell), "result": result}
            publish(self._path(cell), json.dumps(record, allow_nan=False).encode())
            self.on_cell(done, len(missing))
        return self.recall(cells)

    def recall(self, cells: Sequence[Cell]) -> list[Result]:
        """Results that are there already."""
        results = []
        for cell in cells:
            if (result := self._read(cell)) is None:
                raise NotMeasuredError(f"{self._path(cell)} is not there: {cell} was not measured")
            results.append(result)
        return results

    def _run(self, cells: list[Cell]) -> Iterator[tuple[Cell, Result]]:
        if self.jobs == 1:
            for cell in cells:
                yield cell, measure_alone(cell)
            return
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.jobs, context, initializer=_ignore_ctrl_c)
        try:
            pending = {self._executor.submit(measure_alone, cell): cell for cell in cells}
            for future in as_completed(pending):
                yield pending[future], future.result()
        except BrokenProcessPool:
            raise StudyError(
                "a process of the study was killed, perhaps for its memory; the same command resumes it, "
                "--jobs 1 needs the least memory"
            ) from None

    def _describe(self, cell: Cell) -> dict[str, Any]:
        settings = asdict(cell)  # type: ignore[call-overload]
        described: dict[str, Any] = json.loads(
            json.dumps({"kind": type(cell).__name__, "settings": settings, **self.context})
        )
        return described

    def _key(self, cell: Cell) -> str:
        text = json.dumps(self._describe(cell), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{type(cell).__name__}-{self._key(cell)}.json"

    def _read(self, cell: Cell) -> Result | None:
        try:
            record = json.loads(self._path(cell).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(record, dict) or record.get("cell") != self._describe(cell):
            return None
        result: Result | None = record.get("result")
        return result


def measure_alone(cell: Cell) -> Result:
    """With one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    initialize_mkl()
    try:
        return cell.measure()
    finally:
        torch.set_num_threads(threads)


def _ignore_ctrl_c() -> None:
    """Ctrl-C is for the parent, which stops this process after its current cell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
