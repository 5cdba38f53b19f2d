"""The measurements: one row for each net, kind of γ and tool, in a CSV that is complete at all times.

In and out: `Row`s and fold_zoo.csv.
"""

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.common import read_csv
from service.contract.files import publish

GAMMAS = ("both", "positive")

Key = tuple[str, str]
"""A net's name and its kind of γ."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one tool on one net.

    `outcome` is ok, wrong (the answers differ from the net's) or failed; `reason` says why. `tool` is "net"
    if the net itself could not be measured. Errors are the largest over all outputs, relative to the output's
    largest absolute value in float64.
    """

    net: str
    gammas: str
    tool: str
    version: str = ""
    outcome: str = "ok"
    reason: str = ""
    row_shape: str = ""
    found: int = 0
    left: int = 0
    batchnorms: int = 0
    stand_ins: int = 0
    affines: int = 0
    bounds: int = 0
    nodes: int = 0
    error: float | None = None
    unfolded_error: float | None = None
    seconds: float | None = None
    ms_per_row: float | None = None
    best_tool: str = ""
    best_ms_per_row: float | None = None
    time_ratio: float | None = None

    @property
    def removed(self) -> int:
        """The number of BatchNorms that are gone; 0 if the answers are wrong."""
        return self.found - self.left if self.outcome == "ok" else 0

    @property
    def error_ratio(self) -> float | None:
        """The error ÷ the unfolded graph's; None if either is unknown."""
        if self.error is None or not self.unfolded_error:
            return None
        return self.error / self.unfolded_error

    @property
    def key(self) -> Key:
        """The net and kind of γ, whose rows are measured together."""
        return self.net, self.gammas


_READ: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float | None": lambda text: float(text) if text else None,
}


def read(path: Path) -> list[Row]:
    """The rows of a file; none if there is no file."""
    readers = {
        field.name: _READ.get(str(getattr(field.type, "__name__", field.type)), str) for field in fields(Row)
    }
    return [Row(**{name: readers[name](text) for name, text in line.items()}) for line in read_csv(path)]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write all rows aside, then rename."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = asdict(row)
        writer.writerow(
            {name: f"{cell:.4g}" if isinstance(cell, float) else cell for name, cell in cells.items()}
        )
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Replace the file `path` by `text` in one step."""
    publish(path, text.encode())


def merge(rows: list[Row], new: list[Row], order: list[str]) -> list[Row]:
    """Replace all rows of the same nets and γ by the new ones; sorted in the zoo's order."""
    replaced = {row.key for row in new}
    place = {name: index for index, name in enumerate(order)}
    merged = [row for row in rows if row.key not in replaced] + new
    return sorted(merged, key=lambda row: (place.get(row.net, len(order)), GAMMAS.index(row.gammas)))
