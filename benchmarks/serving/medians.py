"""Combine rounds: medians of their figures.

In: cells.  Out: `Medians` for each net, system, format and load.
"""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.store import CLOSED, FAILED, Cell
from benchmarks.serving.systems import BARE

Place = tuple[str, str, str, str]  # net, system, format, load


@dataclass(frozen=True, kw_only=True)
class Medians:
    """Medians over the rounds; errors and wrong answers are summed, `extra` holds each round's."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_s_per_1000: float
    errors: int
    wrong: int
    extra: list[dict[str, Any]]

    def of_extra(self, name: str) -> float:
        """The median of a figure in `extra`, which only some loads have."""
        return statistics.median(float(each[name]) for each in self.extra)


def medians(cells: Iterable[Cell]) -> dict[Place, Medians]:
    """Group the cells of all rounds by place; failed ones are left out."""
    groups: dict[Place, list[Cell]] = {}
    for cell in cells:
        if cell.load != FAILED:
            groups.setdefault((cell.net, cell.system, cell.format, cell.load), []).append(cell)
    return {
        place: Medians(
            requests_per_s=statistics.median(cell.requests_per_s for cell in group),
            p50_ms=statistics.median(cell.p50_ms for cell in group),
            p99_ms=statistics.median(cell.p99_ms for cell in group),
            cpu_s_per_1000=statistics.median(cell.cpu_s_per_1000 for cell in group),
            errors=sum(cell.errors for cell in group),
            wrong=sum(cell.wrong for cell in group),
            extra=[json.loads(cell.extra) for cell in group if cell.extra],
        )
        for place, group in groups.items()
    }


def maximum(cells: Iterable[Cell], net: str, system: str, form: str) -> float | None:
    """The highest median requests/s of a system's closed loops; None if not measured."""
    these = [cell for cell in cells if (cell.net, cell.system, cell.format) == (net, system, form)]
    rates = [it.requests_per_s for place, it in medians(these).items() if place[3] in CLOSED]
    return max(rates, default=None)


def best_bare(found: dict[Place, Medians], net: str) -> tuple[str, float] | None:
    """The fastest configuration of ONNX Runtime alone, and its rows/s; None if not measured."""
    ways = {place[3]: it.requests_per_s for place, it in found.items() if place[:3] == (net, BARE, "rows")}
    return max(ways.items(), key=lambda way: way[1]) if ways else None
