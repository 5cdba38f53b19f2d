"""What several benchmarks share: command line, progress bar, CSV files, and the CPU's name."""

import argparse
import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

RESULTS = Path(__file__).parent / "results"


def new_parser(module: ModuleType) -> argparse.ArgumentParser:
    """A parser for `python -m MODULE`, whose help is the module's docstring as it is."""
    return argparse.ArgumentParser(
        prog=f"python -m {module.__name__}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def new_progress(console: Console) -> Progress:
    """A bar of steps that is drawn only on `refresh`: a drawing thread would take its share of the cores."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, auto_refresh=False)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header; none if there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def append_csv(path: Path, head: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to a CSV file, with the header first if the file is new."""
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, head)
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def cpu_model() -> str:
    """The CPU's name as Linux reports it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a CPU")
