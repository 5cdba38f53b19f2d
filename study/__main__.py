"""`python -m study`: measures what is not measured yet, then writes the report.

Progress on stderr, the report's path on stdout.

exit code   0 done   2 the user's mistake, in one sentence   130 interrupted: the same command resumes it
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.errors import TrainingError, describe_unknown
from training.settings.config import ConfigError
from training.settings.environment import set_environment
from training.settings.flags import Parser

if TYPE_CHECKING:
    from study.scale import Scale

PROG = "python -m study"
EXAMPLE = """\
examples:
  foldserve study --quick              10 minutes on 2 cores; study/results/
  foldserve study --out runs/clothes-study --data fashion-mnist --seeds 10
  foldserve study --only depth --only surface
"""
MAX_ROWS = 2000
OUT, CELLS = Path("study/results"), "cells"


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The flags."""
    parser = Parser(prog, "Measure what articles claim about BatchNorm.", EXAMPLE)
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"(default {OUT})")
    parser.add_argument("--data", default="digits", metavar="NAME", help="data set (default digits)")
    parser.add_argument(
        "--rows", type=int, metavar="N", help=f"to train on (default {MAX_ROWS}, or all there are)"
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="at most; 5 or 10 if these decide (default 20, with --quick 3)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="less of everything; the report says what was left out"
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="measure this one; an unknown name lists them"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes (default: the cores)"
    )
    return parser


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line, which --help calls `prog`; returns the exit code."""
    try:
        flags = build_parser(prog).parse_args(argv)
        set_environment()
        print(run_study(flags, sys.argv[1:] if argv is None else argv))
    except TrainingError as error:
        print(f"study: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("study: interrupted; what was measured is kept; the same command resumes it", file=sys.stderr)
        return 130
    return 0


def run_study(flags: argparse.Namespace, words: Sequence[str]) -> Path:
    """Measure what was asked for, and report on all that is there; returns the report's path."""
    # Torch takes seconds to import: --help does not wait for it, and Ctrl-C meanwhile is a sentence.
    from study.experiments import EXPERIMENTS
    from study.lab import Lab, NotMeasuredError
    from study.report import REPORT, write_report
    from study.rows import load_rows
    from study.watch import Watch
    from training.files import prepare_folder, publish

    for name in flags.only or ():
        if name not in EXPERIMENTS:
            raise ConfigError(describe_unknown("experiment", name, EXPERIMENTS))
    if flags.jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {flags.jobs}")
    scale = choose_scale(flags)
    rows = load_rows(scale.data, scale.num_rows)
    prepare_folder(cells := flags.out / CELLS)
    findings, missing = {}, []
    watch = Watch(flags.only or EXPERIMENTS)
    with watch, Lab(cells, {"rows": rows.digest()}, jobs=flags.jobs, on_cell=watch.update) as lab:
        for name, experiment in EXPERIMENTS.items():
            is_wanted = not flags.only or name in flags.only
            if is_wanted:
                watch.begin(name)
            try:
                for look in scale.each_look():
                    findings[name] = experiment(look, lab.measure if is_wanted else lab.recall)
                    if findings[name].is_decided:
                        break
            except NotMeasuredError:
                # Of an experiment that is not wanted now, the last look that was measured counts.
                had = f"{look.num_before} seeds of {scale.looks[-1]}, and not decided"
                missing.append(f"`{name}`: {had if name in findings else 'not measured'}")
    command = shlex.join(["python", "-m", "study", *words])
    for name, content in write_report(scale, rows, findings, missing, command).items():
        publish(flags.out / name, content)
    out: Path = flags.out
    return out / REPORT


def choose_scale(flags: argparse.Namespace) -> "Scale":
    """The whole study or the quick one, of the data and with the seeds that were asked for."""
    from study.rows import count_train_rows
    from study.scale import QUICK, Scale, looks_up_to

    chosen: dict[str, Any] = dict(QUICK) if flags.quick else {}
    if flags.seeds is not None:
        chosen["looks"] = looks_up_to(flags.seeds)
    num_rows = min(MAX_ROWS, count_train_rows(flags.data)) if flags.rows is None else flags.rows
    return Scale(data=flags.data, num_rows=num_rows, **chosen)


if __name__ == "__main__":
    sys.exit(main())
