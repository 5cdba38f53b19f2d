"""What people see while something long runs: lines and bars on stderr; and tables, in Markdown.

A bar is drawn on a terminal only; elsewhere the lines alone are printed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


def new_console(*, quiet: bool = False) -> Console:
    """A console on stderr, for stdout belongs to results; a `quiet` one prints nothing."""
    return Console(stderr=True, highlight=False, quiet=quiet)


def say(console: Console, line: str) -> None:
    """Print one line with its brackets; a terminal breaks it between words only, a file gets it whole."""
    console.print(line, soft_wrap=not console.is_terminal, markup=False)


def new_progress(console: Console, *columns: ProgressColumn, **options: object) -> Progress:
    """A bar that is erased at its end; `options` are those of rich's Progress."""
    idle = console.quiet or not console.is_terminal
    return Progress(*columns, console=console, transient=True, disable=idle, **options)  # type: ignore[arg-type]


@contextmanager
def show_progress(
    what: str, total: int | None, *, done: int = 0, in_bytes: bool = False
) -> Iterator[Callable[[int], None]]:
    """Say `what` is under way; yields a function that takes how many more of `total` are done."""
    console = new_console()
    say(console, what)
    counts = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
    with new_progress(console, TextColumn(" "), BarColumn(), *counts, TimeRemainingColumn()) as progress:
        bar = progress.add_task(what, total=total, completed=done)
        yield lambda more: progress.advance(bar, more)


def to_markdown(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True, aligned: bool = False
) -> str:
    """A Markdown table, without a newline at its end; `numbers` are on the right, but for the first column.

    `aligned` pads every cell to its column, for a terminal.
    """
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    lines = [[cell.replace("|", "/") for cell in line] for line in (head, *rows)]
    lines.insert(1, rule)
    if aligned:
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for index, line in enumerate(lines):
            fill = "-" if index == 1 else " "
            lines[index] = [
                cell.rjust(width, fill) if side.endswith(":") else cell.ljust(width, fill)
                for cell, width, side in zip(line, widths, rule, strict=True)
            ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
