"""`python -m training compare`: folders of runs in; a table on stdout, and a picture where asked for.

exit code   0 done   2 the user's mistake, in one sentence
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training.errors import TrainingError
from training.files import publish
from training.settings.environment import set_environment
from training.settings.flags import Parser

PROG = "python -m training compare"
EXAMPLE = """\
examples:
  foldserve train compare runs/digits runs/deep
  foldserve train compare runs/* --plot both.png > table.md
"""


class CompareError(TrainingError):
    """Runs that cannot be compared."""


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Folders, and where to draw."""
    parser = Parser(
        prog,
        "Compare runs side by side: the settings that differ, and the results.",
        EXAMPLE,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="FOLDER", help="of a run, two or more")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the held-out curves there")
    return parser


def main(argv: Sequence[str], prog: str = PROG) -> int:
    """Run the command line, which --help calls `prog`; returns the exit code."""
    try:
        given = build_parser(prog).parse_args(argv)
        check(given.runs, given.plot)
        set_environment()
        # As in __main__: torch takes seconds to import.
        from training.figures.curves import draw_comparison
        from training.figures.figure import to_png
        from training.runs.compare import describe_incomparable, read_run, to_table

        runs = [read_run(folder) for folder in given.runs]
        if given.plot:
            figure = draw_comparison({run.name: run.history for run in runs}, "held out")
            publish(given.plot, to_png(figure))
    except TrainingError as error:
        print(f"training: {error}", file=sys.stderr)
        return error.exit_code
    if warning := describe_incomparable(runs):
        print(f"training: {warning}", file=sys.stderr)
    print(to_table(runs))
    return 0


def check(folders: Sequence[Path], plot: Path | None) -> None:
    """Raise CompareError unless there are two different folders, and a picture that can be one."""
    if len(folders) < 2:
        raise CompareError(f"compare needs two runs at least, got {folders[0]} only")
    seen: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise CompareError(f"no run at {folder}: there is no such folder")
        if (first := seen.setdefault(folder.resolve(), folder)) is not folder:
            raise CompareError(f"{folder} is the same run as {first}")
    if plot and plot.suffix.lower() != ".png":
        raise CompareError(f"--plot writes a PNG, so its name must end in .png, got {plot}")
