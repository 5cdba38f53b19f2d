"""The command line; `python -m benchmarks.training --help`.  Table on stdout, narration on stderr."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import benchmarks.training as package
from benchmarks.common import new_parser, new_progress
from training.errors import TrainingError
from training.settings.environment import set_environment
from training.settings.flags import build_parser, read_settings

RESULT = "training.md"


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The options, and the settings of the training, which follow `--`."""
    parser = new_parser(package)
    parser.add_argument("--quick", action="store_true", help="smaller batches and pictures")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--only", nargs="+", default=[], metavar="NET", help="small-cnn, resnet18, resnet50")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="9 by default")
    parser.add_argument(
        "--control",
        type=float,
        default=0.0,
        metavar="MS",
        help="sleep this long in each of our steps, to check that the ratio shows it",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"folder for {RESULT}")
    reaching = parser.add_argument_group("time to accuracy, instead of the table")
    reaching.add_argument("--to-accuracy", type=float, metavar="SHARE", help="target accuracy, such as 0.94")
    reaching.add_argument("--data", default="cifar10", metavar="NAME", help="cifar10 by default")
    reaching.add_argument(
        "fit", nargs="*", metavar="-- FLAG", help="of python -m training, instead of the recipe for this data"
    )
    options = parser.parse_args(arguments)
    fit = read_settings(vars(build_parser().parse_args(["--out", "-", *options.fit])))
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if options.to_accuracy is not None and not 0 < options.to_accuracy <= 1:
        parser.error(f"--to-accuracy must be above 0 and at most 1, got {options.to_accuracy}")
    if options.fit and options.to_accuracy is None:
        parser.error("flags of the fit need --to-accuracy")
    return options, fit


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code: 1 if a target is missed, 2 for a user's mistake."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    set_environment()
    try:
        options, fit = parse(arguments)
        return reach(options, fit) if options.to_accuracy else compare(options, arguments)
    except TrainingError as error:
        print(f"benchmarks.training: {error}", file=sys.stderr)
        return error.exit_code


def compare(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Measure both loops and print the table; returns the exit code."""
    from rich.console import Console

    from benchmarks.training.cases import choose_cases
    from benchmarks.training.floors import count_work, measure_speed
    from benchmarks.training.rounds import measure
    from benchmarks.training.table import Line, render
    from training.errors import describe_unknown
    from training.loop.device import find_device
    from training.loop.precision import resolve_precision
    from training.settings.config import ConfigError

    device = find_device(options.device)
    console = Console(stderr=True, highlight=False)
    if device.type == "cpu":
        console.print("no GPU is used: smaller batches and fewer steps, for CPUs", soft_wrap=True)
    cases = choose_cases(device.type, quick=options.quick)
    names = [case.name for case in cases]
    for name in options.only:
        if name not in names:
            raise ConfigError(describe_unknown("net", name, names))
    cases = [case for case in cases if case.name in options.only or not options.only]
    lines = []
    with new_progress(console) as progress:
        task = progress.add_task("the device", total=len(cases) * (options.rounds + 1))
        progress.refresh()
        speed = measure_speed(device, resolve_precision("auto", device))
        for case in cases:
            progress.update(task, description=case.name, refresh=True)
            rounds = measure(
                case,
                device,
                options.rounds,
                planted_s=options.control / 1000,
                on_round=lambda index: progress.update(task, advance=1, refresh=True),
            )
            lines.append(Line(case=case, rounds=rounds, work=count_work(case, device)))
            progress.console.print(f"{case.name}: {rounds.ratio:.3f}")
    text = render(lines, speed, device, options.rounds, arguments)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / RESULT).write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(line.rounds.is_reached for line in lines) else 1


def reach(options: argparse.Namespace, fit: dict[str, Any]) -> int:
    """Measure the time to accuracy and print it; returns the exit code."""
    from rich.console import Console

    from benchmarks.training.to_accuracy import RECIPES, run_to

    flags = {**(fit or RECIPES.get(options.data, {})), "data": options.data}
    reached = run_to(options.to_accuracy, flags, options.device, Console(stderr=True, highlight=False))
    print(reached.describe(options.data))
    return 0 if reached.is_reached else 1


if __name__ == "__main__":
    sys.exit(main())
