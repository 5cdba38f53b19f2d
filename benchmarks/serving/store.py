"""What was measured, as rows of a CSV file that grows while the run goes on.

In: `Cell`s.  Out: serving.csv; a cell that stands there is not measured again, unless others used more than
`calm` cores meanwhile.
"""

import csv
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Loads, as the file names them.
CLOSED = {"c1": 1, "c16": 16, "c64": 64}  # connections
OPEN = {"o50": 0.5, "o90": 0.9}  # of our maximum
OVERLOAD, MEMORY, START = "overload", "memory", "start"
FAILED = "failed"  # there are no figures, the note says why

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
    others_cores: float = 0.0  # what neither server nor driver used
    note: str = ""
    extra: str = ""

    @property
    def key(self) -> Key:
        return self.round, self.net, self.system, self.format, self.load


class Store:
    """The file and its cells."""

    def __init__(self, file: Path, calm: float = float("inf")) -> None:
        self._file = file
        self._calm = calm
        self.cells: dict[Key, Cell] = {cell.key: cell for cell in _read(file)}

    def drop(self, nets: list[str], systems: list[str], formats: list[str]) -> None:
        """Forget what was chosen, to measure it again."""
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
        """Whether it is measured, and others left it in peace."""
        return key in self.cells and self.cells[key].others_cores <= self._calm

    def add(self, cell: Cell) -> None:
        """Note and write a cell."""
        self.cells[cell.key] = cell
        is_new = not self._file.exists()
        with self._file.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Cell)])
            if is_new:
                writer.writeheader()
            values = dataclasses.asdict(cell)
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()})


def _read(file: Path) -> list[Cell]:
    if not file.exists():
        return []
    casts: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Cell)}
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [Cell(**{name: casts[name](value) for name, value in row.items()}) for row in rows]
