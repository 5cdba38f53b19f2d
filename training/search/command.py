"""`python -m training search`: trials on stderr as they end; a table and the best command on stdout.

exit code   0 done   2 the user's mistake, in one sentence   130 interrupted: the same command resumes it
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.settings.config import ConfigError
from training.settings.environment import set_environment
from training.settings.flags import Parser, read_settings
from training.settings.flags import build_parser as build_training_parser

EXAMPLE = """\
examples:
  foldserve search --out runs/search --trials 30
  foldserve search --out runs/vgg --trials 50 --net vgg --batch-size 64

Any setting of `foldserve train` may be given, and is then not searched for:
in the second example every batch has 64 rows.  Trials train on four fifths of
the train half and are judged on the last fifth; the held-out half is not
used.  The same command resumes a search that was interrupted; with more
--trials, it extends any; and where one runs, it shares the trials with it.
"""
PROG = "python -m training search"
INSTALL = "pip install 'foldserve[search]'"
SAMPLERS, PRUNERS = ("tpe", "random", "annealing"), ("median", "asha", "none")
CHOICES = ("optimizer", "schedule")
NOT_OURS = ("resume", "overwrite", "tensorboard", "json")


class SearchError(TrainingError):
    """A search that cannot begin, or cannot be resumed."""


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The flags that training does not have."""
    parser = Parser(prog, "Search for learning rate, momentum, weight decay, batch size and width.", EXAMPLE)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where search.db is kept")
    parser.add_argument(
        "--trials", type=int, required=True, metavar="N", help="in all, those done before included"
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default="tpe", help="(default tpe)")
    parser.add_argument(
        "--pruner", choices=PRUNERS, default="median", help="which trials end early (default median)"
    )
    parser.add_argument(
        "--choose",
        action="append",
        choices=CHOICES,
        default=[],
        help="search for the optimizer or the schedule too; once for each",
    )
    parser.add_argument(
        "--width",
        type=float,
        metavar="FACTOR",
        help="on the channels of the net, instead of searching for it",
    )
    return parser


def main(argv: Sequence[str], prog: str = PROG) -> int:
    """Run the command line, which --help calls `prog`; returns the exit code."""
    try:
        given, others = build_parser(prog).parse_known_args(argv)
        fixed, device = read_fixed(given.out, others)
        check(given)
        set_environment()
        # As in __main__: torch takes seconds to import.
        from training.search.narrate import narrate
        from training.search.opening import open_search

        with open_search(
            given.out,
            fixed,
            width=given.width,
            num_trials=given.trials,
            sampler=given.sampler,
            pruner=given.pruner,
            chosen=tuple(given.choose),
            device=device,
        ) as search:
            print(narrate(search), end="")
    except TrainingError as error:
        print(f"training: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("training: search interrupted; the same command resumes it", file=sys.stderr)
        return 130
    return 0


def read_fixed(out: Path, words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Settings of the fit that are given, and the device."""
    flags = vars(build_training_parser().parse_args(["--out", str(out), *words]))
    for name in NOT_OURS:
        if flags[name]:
            raise ConfigError(f"--{name} is not for a search: it resumes by itself, and saves no net")
    return read_settings(flags), flags["device"]


def check(given: argparse.Namespace) -> None:
    """Check the flags of the search, before anything slow is imported; raises ConfigError or SearchError."""
    if given.trials < 1:
        raise ConfigError(f"trials must be at least 1, got {given.trials}")
    if given.width is not None and not 0 < given.width < float("inf"):
        raise ConfigError(f"width must be positive and finite, got {given.width}")
    if importlib.util.find_spec("optuna") is None:
        raise SearchError(f"a search needs the package optuna, which is missing: {INSTALL}")
