"""A study on the terminal: which experiment, how many cells are left of it, how long it took.

In: names, and how many cells are done.  Out, on stderr: a live line on a terminal, and a line per experiment.
"""

import time
from collections.abc import Collection

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from training.console import new_console, new_progress, say


class Watch:
    """Call `begin` before each experiment and `update` after each cell; a line sums up each experiment."""

    def __init__(self, names: Collection[str]) -> None:
        self._num, self._index = len(names), 0
        self._name, self._measured, self._began = "", 0, time.monotonic()
        self._console = new_console()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = new_progress(self._console, *columns)
        self._bar = self._progress.add_task("", total=None)

    def __enter__(self) -> "Watch":
        self._progress.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._progress.stop()
        if kind is None:
            self._sum_up()

    def begin(self, name: str) -> None:
        """The next experiment."""
        self._sum_up()
        self._index += 1
        self._name, self._measured, self._began = name, 0, time.monotonic()

    def update(self, done: int, planned: int) -> None:
        """`done` of the `planned` cells are measured; an experiment may plan more of them later."""
        self._measured += bool(done)
        description = f"{self._index} of {self._num}, {self._name}"
        self._progress.update(self._bar, description=description, completed=done, total=planned)

    def _sum_up(self) -> None:
        if self._name:
            seconds = time.monotonic() - self._began
            what = (
                f"{self._measured} cells measured, {seconds:.0f} s"
                if self._measured
                else "nothing left to measure"
            )
            say(self._console, f"{self._name}: {what}")
