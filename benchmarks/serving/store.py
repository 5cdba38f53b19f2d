"""The measurements, as rows of a CSV file that grows during the run.

In: `Cell`s.  Out: serving.csv; a cell that it contains is not measured again, unless other processes used
more than `calm` cores meanwhile.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import append_csv, read_csv

# Loads, by their names in the file.
CLOSED = {"c1": 1, "c16": 16, "c64": 64}  # connections
OPEN = {"o50": 0.5, "o90": 0.9}  # shares of our maximum
OVERLOAD, MEMORY, START = "overload", "memory", "start"
FAILED = "failed"  # no figures; the note says why

Key = tuple[int, str, str, str, str]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement; `extra` is JSON of figures that only some loads have."""

    round: int
    net: str
    system: str
    format: str
    load: str
    requests: int = 0
    requests_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_s_per_1000: float = 0.0
    errors: int = 0
    wrong: int = 0
    others_cores: float = 0.0  # used by neither server nor driver
    note: str = ""
    extra: str = ""

    @property
    def key(self) -> Key:
        return self.round, self.net, self.system, self.format, self.load


class Store:
    """The cells of a file, read at the start and appended to it."""

    def __init__(self, file: Path, calm: float = float("inf")) -> None:
        self._file = file
        self._calm = calm
        self.cells: dict[Key, Cell] = {cell.key: cell for cell in _read(file)}

    def drop(self, nets: list[str], systems: list[str], formats: list[str]) -> None:
        """Remove the chosen cells, so that they are measured again."""
        kept = [
            cell
            for cell in self.cells.values()
            if cell.net not in nets
            or cell.system not in systems
            or cell.format not in (*formats, "-", "rows", "")
        ]
        self.cells = {}
        self._file.unlink(missing_ok=True)
        for cell in kept:
            self.add(cell)

    def has(self, key: Key) -> bool:
        """Whether it is measured, and other processes used at most `calm` cores meanwhile."""
        return key in self.cells and self.cells[key].others_cores <= self._calm

    def add(self, cell: Cell) -> None:
        """Add a cell and append it to the file."""
        self.cells[cell.key] = cell
        values = dataclasses.asdict(cell)
        row = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in values.items()}
        append_csv(self._file, list(row), [row])


def _read(file: Path) -> list[Cell]:
    casts: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Cell)}
    return [Cell(**{name: casts[name](value) for name, value in row.items()}) for row in read_csv(file)]
